"""Attention: torch's MultiheadAttention nested as its projections, compared with torch's own at every level."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest, nest_pretrained

WIDTH, HEADS, QUERIES, KEYS, BATCH = 8, 2, 5, 7, 3
PARTS = ("q_proj", "k_proj", "v_proj")

KINDS: dict[str, dict[str, Any]] = {
    "packed": {},
    "sequence first": {"batch_first": False},
    "no bias": {"bias": False},
    "own widths": {"kdim": 6, "vdim": 10},
    "one own width, no bias": {"kdim": 6, "bias": False},
    "added": {"add_bias_kv": True, "add_zero_attn": True},
    "added zeros, sequence first": {"add_zero_attn": True, "batch_first": False},
}


def attention(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    made = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True} | options).eval()
    for parameter in made.parameters():  # torch makes biases zero
        nn.init.normal_(parameter)
    return made


def inputs(made: nn.MultiheadAttention, *, batch: int | None = BATCH) -> list[Tensor]:
    def sized(length: int, width: int) -> Tensor:
        if batch is None:
            return torch.randn(length, width)
        return torch.randn((batch, length, width) if made.batch_first else (length, batch, width))

    return [sized(QUERIES, WIDTH), sized(KEYS, made.kdim), sized(KEYS, made.vdim)]


@torch.no_grad()
def at_level(original: nn.MultiheadAttention, net: NestedModel, level: int, prefix: str = "") -> nn.MultiheadAttention:
    """torch's own attention with the weights and biases of a level, put together by hand."""
    plain = copy.deepcopy(original)
    layers = net.nested_layers()
    weights = [layers[prefix + part].values * layers[prefix + part].mask(level) for part in PARTS]
    if plain.in_proj_weight is not None:
        plain.in_proj_weight.copy_(torch.cat(weights))
    else:
        for part, weight in zip(PARTS, weights, strict=True):
            getattr(plain, f"{part}_weight").copy_(weight)
    if plain.in_proj_bias is not None:
        plain.in_proj_bias.copy_(torch.cat([layers[prefix + part].biases[level] for part in PARTS]))  # type: ignore[index]
        plain.out_proj.bias.copy_(layers[f"{prefix}out_proj"].biases[level])  # type: ignore[index]
    out = layers[f"{prefix}out_proj"]
    plain.out_proj.weight.copy_(out.values * out.mask(level))
    return plain


def spread_biases(net: NestedModel) -> None:
    """Give every level biases of its own."""
    for layer in net.nested_layers().values():
        if layer.biases is not None:
            nn.init.normal_(layer.biases)


def masks(batch: int | None) -> list[dict[str, Any]]:
    """Arguments of forward: each mask alone and together, as bools and as floats, with and without weights."""
    padding = torch.zeros((KEYS,) if batch is None else (batch, KEYS), dtype=torch.bool)
    padding[..., -2:] = True
    causal = torch.ones(QUERIES, KEYS).triu(1).bool()
    heads = torch.randn(HEADS * (batch or 1), QUERIES, KEYS)
    floats = torch.zeros(padding.shape).masked_fill(padding, float("-inf"))
    return [
        {},
        {"average_attn_weights": False},
        {"need_weights": False},
        {"attn_mask": causal},
        {"attn_mask": causal, "is_causal": True, "need_weights": False, "key_padding_mask": padding},
        {"attn_mask": heads, "need_weights": False},
        {"attn_mask": heads, "key_padding_mask": floats},
        {"key_padding_mask": padding, "need_weights": False},
        {"key_padding_mask": padding},
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_as_torch_does(kind: str) -> None:
    """At every level, for each mask, with and without a batch: output and weights of attention."""
    original = attention(**KINDS[kind])
    net = nest(original, densities=(0.3, 1.0))
    assert list(net.nested_layers()) == [*PARTS, "out_proj"]
    assert ("bias_k" in str(net.dense_layers())) == bool(KINDS[kind].get("add_bias_kv"))
    spread_biases(net)
    for level in range(2):
        net.set_level(level)
        plain = at_level(original, net, level)
        for batch in (BATCH, None):
            given = inputs(original, batch=batch)
            for arguments in masks(batch):
                expected, weights = plain(*given, **arguments)
                got, got_weights = net(*given, **arguments)
                assert torch.allclose(got, expected, atol=1e-5)
                assert (weights is None) == (got_weights is None)
                assert weights is None or torch.allclose(got_weights, weights, atol=1e-6)


@pytest.mark.parametrize("kind", ["packed", "own widths"])
def test_gradients_are_those_of_torch(kind: str) -> None:
    """They reach the kept weights and the level's biases, and nothing else."""
    original = attention(**KINDS[kind])
    net = nest(original, densities=(0.3, 0.6)).train()
    given, layers = inputs(original), net.nested_layers()
    for level in range(2):
        net.zero_grad()
        net.set_level(level)
        plain = at_level(original, net, level).train()
        plain.zero_grad()
        for each in (plain, net):
            each(*given)[0].sin().sum().backward()
        packed = plain.in_proj_weight
        expected = [getattr(plain, f"{part}_weight").grad for part in PARTS] if packed is None else packed.grad.chunk(3)
        for part, gradient in zip(PARTS, expected, strict=True):
            got = layers[part].values.grad
            assert got is not None
            assert torch.allclose(got, gradient * layers[part].mask(level), atol=1e-5)
        biases = torch.cat([layers[part].biases.grad[level] for part in PARTS])  # type: ignore[index, union-attr]
        assert torch.allclose(biases, plain.in_proj_bias.grad, atol=1e-5)


class Decoder(nn.Module):
    """torch's encoder and decoder layers: attention to itself and to another sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True), 2)
        self.decoder = nn.TransformerDecoderLayer(WIDTH, HEADS, 16, batch_first=True, norm_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """(N, 5, 8) and (N, 7, 8) to (N, 5, 8)."""
        causal = nn.Transformer.generate_square_subsequent_mask(QUERIES)
        return self.decoder(x, self.encoder(memory), tgt_mask=causal, tgt_is_causal=True)


def test_transformers_are_sparse_in_the_file(tmp_path: Path) -> None:
    """Every matrix of torch's transformer is an operator of ours; the runtime answers as torch's layers do."""
    torch.manual_seed(0)
    original = Decoder().eval()
    net = nest(original, densities=(0.3, 0.7), pattern="block4x1")
    assert not net.dense_layers()
    spread_biases(net)
    given = torch.randn(2, QUERIES, WIDTH), torch.randn(2, KEYS, WIDTH)
    path = export(net, given, tmp_path / "net.safetensors", verify=False)
    with Checkpoint.open(path) as file:
        assert {layer.name for layer in file.layers} == set(net.nested_layers())
        network = file.metadata.network
    assert network is not None
    assert {module.why for module in network.dense} == {
        "queries, keys and values multiply each other, without a weight"
    }
    owners = [name for name, module in original.named_modules() if isinstance(module, nn.MultiheadAttention)]
    assert len(owners) == 4
    for level in range(2):
        plain = copy.deepcopy(original)
        for name in owners:
            parent, _, key = name.rpartition(".")
            setattr(plain.get_submodule(parent), key, at_level(original.get_submodule(name), net, level, f"{name}."))  # type: ignore[arg-type]
        with torch.no_grad():
            for name, layer in net.nested_layers().items():
                if "attn" not in name:
                    target = plain.get_submodule(name)
                    target.weight.copy_(layer.values * layer.mask(level))  # type: ignore[operator, union-attr]
                    target.bias.copy_(layer.biases[level])  # type: ignore[index, operator, union-attr]
            expected = plain.eval()(*given)
            net.set_level(level)
            assert torch.allclose(net.eval()(*given), expected, atol=1e-5)
        with Session(path, threads=1) as session:
            names = [spec.name for spec in session.inputs]
            feeds = {name: each.numpy() for name, each in zip(names, given, strict=True)}
            (got,) = session.run(feeds, level=level).values()
        assert torch.allclose(torch.from_numpy(got), expected, atol=1e-5)


def test_the_attributes_of_torch_are_there() -> None:
    """Code that looks at the packed weight finds it, with the level's weights in another module's forward."""
    original = attention()
    net = nest(original, densities=(0.5, 1.0))
    assert isinstance(net.model, nn.MultiheadAttention)
    assert torch.equal(net.model.in_proj_weight, original.in_proj_weight)
    assert net.model.in_proj_bias.shape == (2, 3 * WIDTH)  # as of every nested layer: one row per level
    assert net.model.q_proj_weight is None
    own = nest(attention(kdim=6), densities=(1.0,)).model
    assert own.in_proj_weight is None  # type: ignore[union-attr]
    assert own.k_proj_weight.shape == (WIDTH, 6)  # type: ignore[union-attr]
    assert torch.equal(copy.deepcopy(net).model.in_proj_weight, original.in_proj_weight)  # type: ignore[union-attr]


class Subclass(nn.MultiheadAttention):
    """May compute something else."""


def test_what_stays_dense_says_why() -> None:
    """A name in keep_dense, a subclass, shared parameters, a replaced forward."""
    shared, twin = attention(), attention()
    twin.in_proj_weight = shared.in_proj_weight
    replaced = attention()
    replaced.forward = nn.MultiheadAttention.forward.__get__(replaced)  # type: ignore[method-assign]
    parts = {"kept": attention(), "sub": Subclass(WIDTH, HEADS), "shared": shared, "twin": twin, "replaced": replaced}
    net = nest(nn.ModuleDict({**parts, "fc": nn.Linear(4, 4)}), densities=(0.5,), keep_dense=("ke*",))
    reasons = net.dense_layers()
    assert list(net.nested_layers()) == ["fc"]
    assert "keep_dense" in reasons["kept"]
    assert "Subclass is not nested" in reasons["sub"]
    assert "shares its in_proj_weight with 'twin'" in reasons["shared"]
    assert "forward was replaced" in reasons["replaced"]
    assert type(net.model.kept) is nn.MultiheadAttention


def test_masks_of_prune_hold_and_the_original_keeps_its_parameters() -> None:
    """Weights that a mask of torch.nn.utils.prune removes from the packed weight stay out of every level."""
    original = attention()
    prune.l1_unstructured(original, "in_proj_weight", amount=0.6)  # type: ignore[no-untyped-call]
    prune.l1_unstructured(original.out_proj, "weight", amount=0.6)  # type: ignore[no-untyped-call]
    given = inputs(original)
    expected = original(*given)[0]
    net = nest(original, densities=(0.1, 0.9))
    assert torch.allclose(net(*given)[0], expected, atol=1e-5)
    kept = [*original.in_proj_weight_mask.bool().chunk(3), original.out_proj.weight_mask.bool()]
    assert list(net.nested_layers()) == [*PARTS, "out_proj"]
    for part, mask in zip(net.nested_layers(), kept, strict=True):
        assert not (net.nested_layers()[part].mask(1) & ~mask).any()
    assert prune.is_pruned(original)  # type: ignore[no-untyped-call]
    assert type(original) is nn.MultiheadAttention
    assert "in_proj_weight_orig" in dict(original.named_parameters())


def test_post_training_sees_the_inputs_of_every_projection() -> None:
    """Calibration reaches the four layers, so that the sparse level is nearer to the dense model than by magnitude."""
    original = attention()
    x = torch.randn(64, QUERIES, WIDTH)

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = original

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    model = Own().eval()
    calibrated = nest_pretrained(model, [x], densities=(0.5, 1.0), samples=64)
    plain = nest(model, densities=(0.5, 1.0))
    errors = []
    for net in (calibrated, plain):
        net.set_level(0)
        with torch.no_grad():
            errors.append(float((net.eval()(x) - model(x)).square().mean()))
    assert errors[0] < errors[1]


def test_an_export_in_training_keeps_its_dropout() -> None:
    """torch.export of a net in train mode: where all is dropped, the answer is the last bias."""
    net = nest(nn.Sequential(attention(dropout=1.0)), densities=(1.0,))
    module = net.model[0].train()
    x = torch.randn(BATCH, QUERIES, WIDTH)
    answer, _ = torch.export.export(module, (x, x, x)).module()(x, x, x)
    torch.testing.assert_close(answer, module.out_proj.bias.expand_as(answer).detach(), check_stride=False)
