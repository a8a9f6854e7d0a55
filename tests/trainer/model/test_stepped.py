"""Stepped: nested LSTMs and GRUs answer as torch's with the level's weights, whichever way they are called."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from nested_sparse.errors import InputError
from nested_sparse.trainer import (
    FreezeThenGrow,
    Gradual,
    Interleaved,
    Joint,
    RigL,
    TrainConfig,
    nest,
    nest_pretrained,
    train,
)
from nested_sparse.trainer.model.nested_model import NestedModel

KINDS: list[type[nn.LSTM | nn.GRU]] = [nn.LSTM, nn.GRU]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
    {"num_layers": 2, "bias": False},
]
DENSITIES = (0.25, 0.5)


class Tagger(nn.Module):
    """A recurrent layer and a head over its outputs."""

    def __init__(self, rnn: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.rnn = rnn
        self.head = nn.Linear(rnn.hidden_size * (2 if rnn.bidirectional else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, K) to (N, 3)."""
        y, _ = self.rnn(x)
        return self.head(y.mean(1))


def dense_at(net: NestedModel, level: int) -> nn.LSTM | nn.GRU:
    """torch's layer with the weights of the level, set one by one from the masks."""
    stepped = net.model
    kind = nn.LSTM if isinstance(stepped, nn.LSTM) else nn.GRU
    options = {
        name: getattr(stepped, name) for name in ("num_layers", "bias", "batch_first", "bidirectional", "dropout")
    }
    dense = kind(stepped.input_size, stepped.hidden_size, **options)
    with torch.no_grad():
        for name, layer in net.nested_layers().items():
            getattr(dense, f"weight_{name}").copy_(torch.where(layer.mask(level), layer.values, 0.0))
            if layer.biases is not None:
                getattr(dense, f"bias_{name}").copy_(layer.biases[level])
    return dense.eval()


def nested(rnn: nn.Module, **options: Any) -> NestedModel:
    """`rnn`, nested, with a bias of its own at each level."""
    net = nest(rnn.eval(), densities=DENSITIES, pattern="block4x1", **options)
    for layer in net.nested_layers().values():
        if layer.biases is not None:
            nn.init.normal_(layer.biases)
    return net


def watch(net: NestedModel) -> None:
    """Let hooks wait for the calls of the layers, which then run one by one."""
    for layer in net.nested_layers().values():
        layer.register_forward_hook(lambda *_: None)


def tensors(answer: Any) -> list[Tensor]:
    if isinstance(answer, PackedSequence):
        return [answer.data]
    return [answer] if isinstance(answer, Tensor) else [each for part in answer for each in tensors(part)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("watches", [False, True])
def test_levels_answer_as_torch_with_their_weights(
    kind: type[nn.LSTM | nn.GRU], options: dict[str, Any], watches: bool
) -> None:
    """With and without state, without a batch, and packed; outputs, states and gradients."""
    torch.manual_seed(0)
    net = nested(kind(6, 8, **options))
    if watches:
        watch(net)
    x = torch.randn(4, 3, 6)
    batch = 4 if options.get("batch_first") else 3
    stacked = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    hidden = torch.randn(stacked, batch, 8)
    state = (hidden, torch.randn(stacked, batch, 8)) if kind is nn.LSTM else hidden
    alone = (hidden[:, 0], hidden[:, 1]) if kind is nn.LSTM else hidden[:, 0]
    packed = pack_padded_sequence(torch.randn(5, 3, 6), torch.tensor([2, 5, 1]), enforce_sorted=False)
    for level in range(2):
        net.set_level(level)
        dense = dense_at(net, level)
        for args in ((x,), (x, state), (x[0],), (x[:, 0], alone), (packed,)):
            for one, other in zip(tensors(net(*args)), tensors(dense(*args)), strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        net.zero_grad()
        for model in (net, dense):
            sum(each.square().sum() for each in tensors(model(x, state))).backward()
        for name, layer in net.nested_layers().items():
            expected = torch.where(layer.mask(level), getattr(dense, f"weight_{name}").grad, 0.0)
            torch.testing.assert_close(layer.values.grad, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("watches", [False, True])
def test_errors_are_torchs(watches: bool) -> None:
    """No steps, another width, a state of the wrong size or rank, and another dtype."""
    net = nested(nn.LSTM(6, 8))
    if watches:
        watch(net)
    dense, state = nn.LSTM(6, 8), torch.zeros(1, 2, 8)
    wrong: list[tuple[Any, ...]] = [
        (torch.zeros(0, 2, 6),),
        (torch.zeros(4, 2, 5),),
        (torch.zeros(4, 2, 6), (state[:, :1], state)),
        (torch.zeros(4, 2, 6), (state[0], state[0])),
        (torch.zeros(4, 2, 6).double(),),
        (torch.zeros(4, 2, 6, 1),),
    ]
    for args in wrong:
        with pytest.raises((RuntimeError, ValueError)) as expected:
            dense(*args)
        with pytest.raises(expected.type) as got:
            net(*args)
        assert str(got.value) == str(expected.value)


def test_torchs_names_still_work() -> None:
    """Settings, weights under their names, copies, pickles, other dtypes; the original is left alone."""
    original = nn.LSTM(6, 8, num_layers=2, bidirectional=True)
    before = copy.deepcopy(original.state_dict())
    net = nested(original)
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items())
    rnn = net.model
    assert isinstance(rnn, nn.LSTM)
    assert (rnn.hidden_size, rnn.num_layers, rnn.bidirectional) == (8, 2, True)
    rnn.flatten_parameters()
    assert rnn.weight_hh_l1_reverse.shape == (32, 8)
    assert [each[1].shape for each in rnn.all_weights] == [(32, 8)] * 4
    assert not hasattr(rnn, "weight_hh_l2")
    x = torch.randn(3, 2, 6)
    stored = io.BytesIO()
    torch.save(net, stored)
    stored.seek(0)
    for other in (copy.deepcopy(net), torch.load(stored, weights_only=False)):
        other.set_level(0)
        assert net.level == 1
        assert not torch.equal(other(x)[0], net(x)[0])
        other.set_level(1)
        assert torch.equal(other(x)[0], net(x)[0])
    assert copy.deepcopy(net).double()(x.double())[0].dtype == torch.float64
    assert copy.deepcopy(net).half().model.ih_l0.values.dtype == torch.float16


@pytest.mark.parametrize("pattern", ["block16x1", "block4x1", "gs8x1"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_no_block_holds_rows_of_two_gates(pattern: str, shuffled: bool) -> None:
    """Blocks are as high as a gate allows, and a shuffle leaves each row in its gate."""
    net = nest(nn.GRU(16, 24), densities=(0.1, 0.4), pattern=pattern, row_shuffle=shuffled)
    for layer in net.nested_layers().values():
        assert 24 % layer.block_rows == 0
        assert layer.layout.name == {"block16x1": "block8x1"}.get(pattern, pattern)
        if layer.permutation is not None:
            assert torch.equal(layer.permutation // 24, torch.arange(72) // 24)


def test_what_stays_dense_says_why() -> None:
    """A projection, a named layer, a weight that another module holds; parts may be kept whole by their names."""
    projected = nest(nn.Sequential(nn.LSTM(4, 6, proj_size=3), nn.Linear(3, 3)), densities=(0.5,))
    assert projected.dense_layers() == {"0": "its proj_size is 3; only an LSTM without a projection is nested"}
    named = nest(Tagger(nn.GRU(4, 8)), densities=(0.5,), keep_dense=("rnn",))
    assert named.dense_layers() == {"rnn": "keep_dense names it"}
    assert type(named.model.rnn) is nn.GRU
    part = nest(Tagger(nn.GRU(4, 8)), densities=(0.5,), keep_dense=("rnn.ih_*",))
    assert [name for name, layer in part.nested_layers().items() if layer.dense] == ["rnn.ih_l0"]
    tied = nn.ModuleList([nn.LSTM(4, 6), nn.LSTM(4, 6), nn.Linear(4, 4)])
    tied[1].weight_hh_l0 = tied[0].weight_hh_l0
    reasons = nest(tied, densities=(0.5,)).dense_layers()
    assert reasons == {"0": "shares its weight_hh_l0 with '1'", "1": "shares its weight_hh_l0 with '0'"}
    with pytest.raises(InputError, match="LSTM or GRU that can be nested"):
        nest(nn.RNN(4, 4), densities=(0.5,))
    channels = nest(nn.Sequential(nn.Linear(32, 32), nn.LSTM(32, 32)), densities=(0.5,), pattern="channel")
    assert all(layer.dense for name, layer in channels.nested_layers().items() if name.startswith("1."))


def test_weights_that_others_compute_are_not_ignored() -> None:
    """A weight that is no parameter leaves the module dense; one that is set later is an error, not a wrong answer."""
    dropped = nn.LSTM(4, 6)
    raw = dropped.weight_hh_l0.detach()
    del dropped._parameters["weight_hh_l0"]
    dropped.weight_hh_l0 = nn.functional.dropout(raw, 0.5)
    net = nest(nn.Sequential(nn.Linear(4, 4), dropped), densities=(0.5,))
    assert net.dense_layers() == {"1": "its weight_hh_l0 is not a parameter but computed from others"}
    rnn = nest(nn.GRU(4, 6), densities=(0.5,)).model
    for value in (torch.zeros(18, 6), nn.Parameter(torch.zeros(18, 6))):
        with pytest.raises(InputError, match="weight_hh_l0 of a nested SteppedGRU cannot be set"):
            rnn.weight_hh_l0 = value
    rnn.dropout = 0.0


def test_masks_and_computed_weights_are_taken_over() -> None:
    """torch.nn.utils' prune and weight_norm on the weights of a recurrent layer."""
    torch.manual_seed(0)
    rnn, x = nn.LSTM(6, 8), torch.randn(3, 2, 6)
    prune.random_unstructured(rnn, "weight_hh_l0", amount=0.75)
    weight_norm(rnn, "weight_ih_l0")
    net = nest(rnn, densities=(0.1, 1.0))
    torch.testing.assert_close(net(x)[0], rnn(x)[0])
    hidden = net.nested_layers()["hh_l0"]
    assert torch.equal(hidden.mask(1), rnn.weight_hh_l0_mask.bool())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nesting", [FreezeThenGrow(), Interleaved(), Joint()], ids=lambda each: type(each).__name__)
def test_every_nesting_trains_it(kind: type[nn.LSTM | nn.GRU], nesting: Any) -> None:
    """With a search that asks for dense gradients; levels nest, and each is better than a guess."""
    torch.manual_seed(0)
    x = torch.randn(96, 5, 4)
    labels = x.mean(1)[:, :3].argmax(1)
    net = nest(Tagger(kind(4, 16, batch_first=True)), densities=(0.2, 0.6))
    schedule = RigL() if isinstance(nesting, FreezeThenGrow) else Gradual()
    train(
        net,
        lambda _: [(x[i : i + 32], labels[i : i + 32]) for i in range(0, 96, 32)],
        nn.functional.cross_entropy,
        TrainConfig(dense_epochs=15, search_epochs=8, lr=0.03, optimizer="adamw"),
        schedule=schedule,
        nesting=nesting,
    )
    net.eval()
    for level in range(2):
        net.set_level(level)
        assert nn.functional.cross_entropy(net(x), labels) < 0.9, level
    for layer in net.nested_layers().values():
        assert bool((layer.mask(1) >= layer.mask(0)).all())


@pytest.mark.parametrize("kind", KINDS)
def test_post_training_fits_it(kind: type[nn.LSTM | nn.GRU]) -> None:
    """Weights of dropped columns go to others: the levels answer nearer to the dense model than by magnitude alone."""
    torch.manual_seed(0)
    model = Tagger(kind(8, 24, batch_first=True, bidirectional=True)).eval()
    x = torch.randn(256, 12, 2) @ torch.randn(2, 8)

    @torch.no_grad()
    def error(net: NestedModel) -> float:
        net.set_level(0)
        return float((net.eval()(x) - model(x)).square().mean())

    options: dict[str, Any] = {"densities": (0.3, 0.6), "pattern": "unstructured"}
    assert error(nest_pretrained(model, [x], samples=256, **options)) < error(nest(model, **options))
