"""Networks: every kind, exported and compared with torch at every level by two evaluators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
import torch.nn.functional as F
from attention_graph import reference as attention
from layer_reference import ACTIVATIONS, transposed
from nets import CASES, Jasper, line
from onnx.reference.op_run import OpRun
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session, check_rows
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import export, nest
from nested_sparse.trainer.model.layers import NestedLayer
from nested_sparse.trainer.model.nested_model import NestedModel
from nested_sparse.trainer.model.norm import LevelBatchNorm

TOLERANCE = 1e-4  # of the largest magnitude: the same float32 products, summed in another order
DENSITIES = (0.2, 0.4, 0.7)


def randomise(net: NestedModel) -> None:
    """Give every level its own biases, affines and statistics, so that an exchange is visible."""
    for module in net.modules():
        if isinstance(module, LevelBatchNorm):
            for norm in module.norms:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.25, 2.0)
                if norm.weight is not None:
                    nn.init.normal_(norm.weight)
                    nn.init.normal_(norm.bias)
        if isinstance(module, NestedLayer) and module.bias is not None:
            nn.init.normal_(module.bias)


def permute(net: NestedModel) -> None:
    """Set random row permutations, not those of nest(), each within its group of channels."""
    for module in net.modules():
        if isinstance(module, NestedLayer):
            groups = getattr(module, "groups", 1)
            rows = module.weight.shape[0] // groups
            order = [torch.randperm(rows) + group * rows for group in range(groups)]
            module.permutation = torch.cat(order).to(torch.int32)


def run_reference(path: Path, feeds: Mapping[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
    """The file's graph by onnx's own evaluator, with the nested operators by their definition in torch."""
    with Checkpoint.open(path) as checkpoint:
        layers = {layer.name: checkpoint.load_layer(layer.name) for layer in checkpoint.layers}
        model = onnx.load_from_string(checkpoint.graph())
        onnx.checker.check_model(model)
        empty = {f"__segment_{index}__": np.zeros(0, np.uint8) for index in range(len(checkpoint.levels))}
        names = [spec.name for spec in checkpoint.outputs]
    ours = [_operator(layers, op) for op in ("Conv", "ConvTranspose", "Linear", "LSTM", "GRU")]
    evaluator = onnx.reference.ReferenceEvaluator(model, new_ops=[*ours, _norm_operator(), _attention_operator()])
    answers = evaluator.run(names, {**feeds, **empty, "__level__": np.array(level)})
    return dict(zip(names, answers, strict=True))


def _operator(layers: Mapping[str, tuple], op: str) -> type[OpRun]:
    def run(self, x, level, residual, *segments, layer=None, clip_min=None, clip_max=None, **attributes):
        weight, norms = layers[layer]
        dense, (scale, shift) = torch.from_numpy(weight.at(int(level))), torch.from_numpy(norms[int(level)])
        x = torch.from_numpy(x)
        if op in ("LSTM", "GRU"):
            return _steps(getattr(nn, op), x, dense * scale[:, None], shift, residual, attributes.get("reverse", 0))
        if op == "ConvTranspose":
            names = ("kernel_shape", "strides", "dilations", "pads", "output_padding")
            window = {name: list(attributes[name]) for name in names}
            y = torch.from_numpy(transposed(x.numpy().astype(np.float64), dense.numpy(), window)).float()
            scale, shift = (part.reshape(-1, *(1,) * (x.dim() - 2)) for part in (scale, shift))
        elif op == "Conv":
            top, left, bottom, right = attributes["pads"]
            line = attributes.get("spatial_dimensions") == 1
            dense = dense.reshape(weight.rows, -1, *attributes["kernel_shape"])
            padded = F.pad(x.unsqueeze(2) if line else x, (left, right, top, bottom))
            strides, dilations, groups = (attributes.get(name, 1) for name in ("strides", "dilations", "groups"))
            y = F.conv2d(padded, dense, None, strides, 0, dilations, groups)
            y = y.squeeze(2) if line else y
            scale, shift = (part.reshape(-1, *(1,) * (x.dim() - 2)) for part in (scale, shift))
        else:
            if "norm_scale" in attributes:
                tables = (torch.from_numpy(np.array(attributes[f"norm_{name}"])) for name in ("scale", "shift"))
                x = F.layer_norm(x, x.shape[-1:], *tables, attributes["norm_epsilon"])
            y = F.linear(x, dense)
        y = y * scale + shift
        if residual is not None:
            y = y + torch.from_numpy(residual)
        function = ACTIVATIONS[attributes.get("activation_function", 0)]
        return (function(y.clamp(clip_min, clip_max).double().numpy()).astype(np.float32),)

    return type(f"Nested{op}", (OpRun,), {"op_domain": "nested_sparse", "_run": run})


def _norm_operator() -> type[OpRun]:
    def run(self, x, level, scale, shift, clip_min=None, clip_max=None, activation_function=0, **forms):
        scale, shift = (part[int(level)].reshape(-1, *(1,) * (x.ndim - 2)) for part in (scale, shift))
        y = np.clip((x * scale + shift).astype(np.float64), clip_min, clip_max)
        return (ACTIVATIONS[activation_function](y).astype(np.float32),)

    return type("NestedNorm", (OpRun,), {"op_domain": "nested_sparse", "_run": run})


def _attention_operator() -> type[OpRun]:
    def run(self, q, k, v, mask=None, **attributes):
        return (attention(q, k, v, mask, **attributes).astype(np.float32),)

    return type("ScaledDotProductAttention", (OpRun,), {"op_domain": "nested_sparse", "_run": run})


def _steps(
    kind: type[nn.LSTM | nn.GRU], x: Tensor, weight: Tensor, bias: Tensor, state: np.ndarray | None, reverse: int
) -> tuple[np.ndarray, ...]:
    """Torch's own layer, whose input matrix passes what the graph has multiplied already."""
    layer = kind(x.shape[-1], weight.shape[1])
    with torch.no_grad():
        for name, value in (("ih", torch.eye(x.shape[-1])), ("hh", weight)):
            getattr(layer, f"weight_{name}_l0").copy_(value)
        layer.bias_ih_l0.zero_()
        layer.bias_hh_l0.copy_(bias)
        begin = None if state is None else torch.from_numpy(state)[:, None]
        begin = begin[0] if begin is not None and kind is nn.GRU else begin
        y, last = layer(x.flip(0) if reverse else x, begin if begin is None or kind is nn.GRU else tuple(begin))
    y = y.flip(0) if reverse else y
    return (y.numpy(), last[1][0].numpy()) if kind is nn.LSTM else (y.numpy(),)


def run_session(path: Path, feeds: Mapping[str, np.ndarray], level: int) -> dict[str, np.ndarray]:
    with Session(path, threads=1) as session:
        return session.run(feeds, level=level)


def assert_alike(net: NestedModel, path: Path, examples: tuple[Tensor, ...], run: Callable) -> None:
    """Check that `run` answers as torch does, at every level, on the examples and on another batch size."""
    with Checkpoint.open(path) as checkpoint:
        names = [spec.name for spec in checkpoint.inputs]
    more = tuple(torch.cat([example, example[:1], example]) for example in examples)
    outputs = []
    for inputs in (examples, more):
        for level in range(net.level_count):
            net.set_level(level)
            with torch.no_grad():
                expected = torch.utils._pytree.tree_leaves(net.eval()(*inputs))
            got = run(path, {name: value.numpy() for name, value in zip(names, inputs, strict=True)}, level)
            for reference, answer in zip(expected, got.values(), strict=True):
                assert answer.dtype == reference.numpy().dtype
                np.testing.assert_allclose(answer, reference, rtol=0, atol=TOLERANCE * float(reference.abs().max()))
            outputs.append(expected[0][:1].numpy())
    assert not np.allclose(outputs[0], outputs[1]), "the levels must differ, or the comparison shows nothing"


def operators(path: Path) -> tuple[int, list[str]]:
    """The number of nested nodes in the file's graph, and its other operators, sorted."""
    with Checkpoint.open(path) as checkpoint:
        nodes = onnx.load_from_string(checkpoint.graph()).graph.node
    others = [node.op_type for node in nodes if node.domain != "nested_sparse"]
    return len(nodes) - len(others), sorted(others)


def leaks(path: Path) -> list[str]:
    """Texts of this machine that must not be in the graph."""
    with Checkpoint.open(path) as checkpoint:
        graph = checkpoint.graph()
    words = (".py", "stack_trace", "torch", "namespace", str(Path.cwd()), str(Path(torch.__file__).parent))
    return [word for word in words if word.encode() in graph]


@pytest.mark.parametrize("name", CASES)
def test_network_answers_like_torch_at_every_level(name: str, tmp_path: Path) -> None:
    """The file computes the same as torch, at every level and another batch size, with all possible folds."""
    torch.manual_seed(0)
    case = CASES[name]
    examples = case.inputs()
    net = nest(case.make(), densities=DENSITIES, pattern=case.pattern, keep_dense=case.keep_dense)
    randomise(net)
    if case.permuted:
        permute(net)
    path = export(net, examples, tmp_path / "net.safetensors", verify=False)
    nested, others = operators(path)
    assert nested == case.nested
    assert case.others is None or others == sorted(case.others)
    assert leaks(path) == []
    for run in (run_reference, run_session):
        assert_alike(net, path, examples, run)
    with Session(path, threads=1) as session:
        feeds = {spec.name: tensor.numpy() for spec, tensor in zip(session.inputs, examples, strict=True)}
        assert check_rows(session, feeds).independent is (name != "unet")  # which adds what it makes of the first image


@pytest.mark.parametrize("name", ["mobilenet", "jasper"])
def test_slices_answer_like_the_whole(name: str, tmp_path: Path) -> None:
    """A file cut after two of three levels gives the same bits at both."""
    torch.manual_seed(1)
    case = CASES[name]
    net = nest(case.make(), densities=DENSITIES, pattern=case.pattern, keep_dense=case.keep_dense)
    randomise(net)
    examples = case.inputs()
    whole = export(net, examples, tmp_path / "whole.safetensors")
    cut = tmp_path / "cut.safetensors"
    slice_checkpoint(whole, 2, cut)
    assert cut.stat().st_size < whole.stat().st_size
    feeds = {"input": examples[0].numpy()}
    for level in range(2):
        assert np.array_equal(run_session(cut, feeds, level)["output"], run_session(whole, feeds, level)["output"])


def test_files_say_what_kind_of_convolution_a_layer_is(tmp_path: Path) -> None:
    """Groups and the number of dimensions are in the file unless they are 1 and 2."""
    path = export(nest(Jasper(), densities=(0.5,)), line(), tmp_path / "net.safetensors", verify=False)
    with Checkpoint.open(path) as checkpoint:
        kinds = {layer.name: layer.attributes for layer in checkpoint.layers}
    assert kinds["depthwise"]["groups"] == [16]
    assert kinds["grouped"]["kernel_shape"] == [1, 3]
    assert kinds["stem"]["pads"] == [0, 5, 0, 5]
    assert all(kind["spatial_dimensions"] == [1] for kind in kinds.values())
    assert "groups" not in kinds["stem"]
