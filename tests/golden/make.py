"""Golden files: the script that made them. Run again, it writes others: to add one, name it and only it.

    python tests/golden/make.py [--checkout FOLDER] NAME...

FOLDER: a checkout of an older commit, whose writer is used in place of the installed package's.
Every weight, norm and input is a small whole number or a multiple of a small power of two, so that no sum rounds and
its order does not matter: `checked` proves it of each layer. So torch's answers are those of every right kernel.
Recurrent layers and attention round; their answers are near torch's.
Answers of int8 files are those of tests/integer_reference.py, whose arithmetic every kernel has bit for bit.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from networks import Affine, Attention, Images, Joined, Lines, Normed, Recurrent, Steps, Vectors, Volumes, Wide
from torch import Tensor, nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
EXPECTED = HERE / "expected.json"


def whole(rng: np.random.Generator, shape: tuple[int, ...], largest: int) -> Tensor:
    """Whole numbers of magnitude 1 to `largest`, float32."""
    values = rng.integers(1, largest + 1, shape) * rng.choice([-1, 1], shape)
    return torch.from_numpy(values.astype(np.float32))


def fill(model: nn.Module, rng: np.random.Generator) -> None:
    """Exact weights and biases; the last layer's end in 1/4096, so that no answer is zero, whose sign may differ."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d, nn.Linear)
    layers = [module for module in model.modules() if isinstance(module, kinds)]
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(whole(rng, tuple(layer.weight.shape), 3))
            if layer.bias is not None:
                layer.bias.copy_(whole(rng, tuple(layer.bias.shape), 4))
        if getattr(model, "rounds", False):
            for parameter in model.parameters():
                parameter.copy_(whole(rng, tuple(parameter.shape), 7) / 16)
        elif isinstance(model, Vectors) and model.tiny:  # subnormal halves and the largest half
            layers[-1].weight[0] *= 2.0**-24
            layers[-1].weight[1] = layers[-1].weight[1].sign() * 65504
            layers[-1].bias[:2] = torch.tensor([2.0**-25, 16.0])
            layers[-1].bias[2:] += 0.5
        else:
            layers[-1].bias += 2.0**-12


def fill_norms(net: Any, rng: np.random.Generator) -> None:
    """Each level its own, biases too: means whole, deviations and what is learnt powers of two."""
    with torch.no_grad():
        for layer in net.nested_layers().values():
            biases = biases_of(layer)
            if biases is not None and biases.dim() == 2:
                biases[:, 2:] += torch.arange(len(biases))[:, None]
        for module in net.level_norms().values():
            for norm in module.norms:
                size = norm.num_features
                deviation = 2.0 ** rng.integers(-1, 3, size)
                scale = 2.0 ** rng.integers(-1, 1, size) * rng.choice([-1, 1, 1, 1], size)
                norm.running_mean.copy_(whole(rng, (size,), 3))
                norm.running_var.copy_(torch.from_numpy(deviation**2))
                norm.bias.copy_(whole(rng, (size,), 6) / 2)
                plain = type(norm) is not Affine
                norm.weight.copy_(torch.from_numpy(scale * deviation if plain else scale))


def biases_of(layer: Any) -> Tensor | None:
    """One for each level, or, of older commits, one for all."""
    return layer.biases if hasattr(layer, "biases") else layer.bias


def unit(tensor: Tensor) -> float:
    """The largest power of two that all of `tensor` is a multiple of."""
    values = tensor.detach().double().numpy().ravel()
    values = values[values != 0]
    if not len(values):
        return 1.0
    mantissas, exponents = np.frexp(values)
    whole_numbers = (mantissas * 2.0**53).astype(np.int64)
    lowest = np.log2((whole_numbers & -whole_numbers).astype(np.float64)).astype(int)
    return float(2.0 ** (lowest - 53 + exponents).min())


def checked(net: Any, level: int) -> None:
    """Have every nested layer prove, while it runs, that its sums are exact in float32 in any order."""

    def check(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x, weight = inputs[0].double(), layer.masked_weight(level).double()
        bias = biases_of(layer)
        bias = bias if bias is None or bias.dim() == 1 else bias[level]
        row_units = [unit(x) * unit(row) for row in weight]
        if layer.op == "conv_transpose" or x.dim() == 5:
            most = most_of(layer, x, level)
        elif x.dim() == 2:
            most = F.linear(x.abs(), weight.abs()).amax(0)
        else:
            groups = getattr(layer, "groups", 1)  # older commits nest no others
            top, left, bottom, right = layer.padding
            padded = F.pad(x.abs() if x.dim() == 4 else x.abs()[:, :, None], (left, right, top, bottom))
            kernel = weight.abs() if weight.dim() == 4 else weight.abs()[:, :, None]
            most = F.conv2d(padded, kernel, None, layer.stride, 0, layer.dilation, groups).amax((0, 2, 3))
        for row, (each, size) in enumerate(zip(most.tolist(), row_units, strict=True)):
            shift = 0.0 if bias is None else abs(float(bias[row]))
            size = size if not shift else min(size, unit(bias[row]))
            assert (each + shift) / size < 2**24, (layer.name, row, each, size)

    for layer in net.nested_layers().values():
        layer.register_forward_hook(check)


def most_of(layer: Any, x: Tensor, level: int) -> Tensor:
    """The largest sum of magnitudes in each of the layer's rows, by a copy of it."""
    twin = copy.deepcopy(layer).double()
    twin._forward_hooks.clear()
    with torch.no_grad():
        twin.values.abs_()
        if twin.biases is not None:
            twin.biases.zero_()
    twin.level = level
    return twin(x.abs()).amax([0, *range(2, x.dim())])


def images(rng: np.random.Generator, batch: int = 3) -> tuple[Tensor, ...]:
    return (whole(rng, (batch, 2, 16, 16), 2),)


def vectors(rng: np.random.Generator) -> tuple[Tensor, ...]:
    return (whole(rng, (5, 24), 4),)


def lines(rng: np.random.Generator) -> tuple[Tensor, ...]:
    return whole(rng, (3, 3, 16), 2), whole(rng, (3, 10), 4)


def wide(rng: np.random.Generator) -> tuple[Tensor, ...]:
    return ((torch.arange(2 * 65540) % 7 - 3.0).reshape(2, 65540),)


def joined(rng: np.random.Generator) -> tuple[Tensor, ...]:
    return (whole(rng, (4, 16), 4),)


def volumes(rng: np.random.Generator) -> tuple[Tensor, ...]:
    return (whole(rng, (2, 2, 3, 7, 5), 2),)


def steps(rng: np.random.Generator) -> tuple[Tensor, ...]:
    return whole(rng, (3, 3, 9), 2), whole(rng, (1, 3, 10), 4).abs()


def sequences(rng: np.random.Generator) -> tuple[Tensor, ...]:
    return (whole(rng, (3, 7, 6), 4) / 4,)


def words(rng: np.random.Generator) -> tuple[Tensor, ...]:
    """The second sequence has two words, and the third has none: each query's answer there is the bias."""
    there = torch.ones(3, 5)
    there[1, 2:], there[2] = 0.0, 0.0
    return whole(rng, (3, 9, 8), 4) / 8, whole(rng, (3, 5, 6), 4) / 8, there


def rows(rng: np.random.Generator) -> tuple[Tensor, ...]:
    return (whole(rng, (3, 9, 24), 4) / 8,)


Make = Callable[[], nn.Module]
Inputs = Callable[[np.random.Generator], tuple[Tensor, ...]]

THREE = (0.25, 0.5, 0.75)
FILES: dict[str, tuple[Make, Inputs, dict[str, Any], dict[str, Any]]] = {
    "v1-block4x1-shuffled": (
        lambda: Images(8),
        images,
        {"pattern": "block4x1", "densities": (0.2, 0.4, 0.6, 1.0), "row_shuffle": True},
        {},
    ),
    "v1-block16x1": (lambda: Images(18), images, {"pattern": "block16x1", "densities": (0.2, 0.4)}, {}),
    "v1-unstructured": (
        lambda: Images(8),
        images,
        {"pattern": "unstructured", "densities": THREE},
        {"fixed_batch": True},
    ),
    "v1-channel": (lambda: Images(12), images, {"pattern": "channel", "densities": THREE}, {}),
    "v1-lines": (Lines, lines, {"pattern": "block2x1", "densities": THREE, "keep_dense": ("embed",)}, {}),
    "v1-lines-tied": (Lines, lines, {"pattern": "unstructured", "densities": (0.3, 0.6)}, {}),
    "v1-wide": (Wide, wide, {"pattern": "unstructured", "densities": (0.0005, 0.001)}, {}),
    "v1-measured": (
        Vectors,
        vectors,
        {"pattern": "block8x1", "densities": THREE},
        {"metrics": {"accuracy": [0.5, 0.75, 0.875], "loss": [1.5, 0.1, 0.0625]}},
    ),
    "v1-joined": (Joined, joined, {"pattern": "block2x1", "densities": THREE}, {}),
    "v2-gs16x4": (lambda: Images(16), images, {"pattern": "gs16x4", "densities": (0.25, 0.5)}, {}),
    "v2-gs8x1": (Vectors, vectors, {"pattern": "gs8x1", "densities": THREE}, {}),
    "v3-block4x1": (lambda: Images(8), images, {"pattern": "block4x1", "densities": THREE}, {"values": "float16"}),
    "v3-gs16x2": (Vectors, vectors, {"pattern": "gs16x2", "densities": (0.2, 0.4, 0.6)}, {"values": "float16"}),
    "v3-tiny": (
        lambda: Vectors(tiny=True),
        vectors,
        {"pattern": "unstructured", "densities": THREE, "keep_dense": ("head",)},
        {"values": "float16"},
    ),
    "v4-block4x1": (lambda: Images(8), images, {"pattern": "block4x1", "densities": THREE}, {"values": "int8"}),
    "v4-gs8x1-dynamic": (
        Vectors,
        vectors,
        {"pattern": "gs8x1", "densities": THREE},
        {"values": "int8", "activations": "dynamic"},
    ),
    "v5-volumes": (Volumes, volumes, {"pattern": "block2x1", "densities": THREE}, {}),
    "v5-state": (
        Steps,
        steps,
        {"pattern": "unstructured", "densities": THREE},
        {
            "dynamic_shapes": {"signal": {0: "batch", 2: "length"}, "state": {1: "batch"}},
            "state": {"next": "state"},
        },
    ),
    "v5-recurrent": (Recurrent, sequences, {"pattern": "block4x1", "densities": (0.25, 0.5)}, {}),
    "v6-block32x1": (
        Vectors,
        vectors,
        {"pattern": "block32x1", "densities": (0.25, 0.5), "row_shuffle": True},
        {"values": "float16"},
    ),
    "v8-input-norms": (Normed, rows, {"pattern": "block4x1", "densities": (0.3, 0.6)}, {}),
    "v7-attention": (Attention, words, {"pattern": "block2x1", "densities": (0.4, 0.7)}, {}),
    "v1-first-writer": (lambda: Images(8), images, {"pattern": "block4x1", "densities": THREE}, {"verify": False}),
    "v1-before-totals": (
        lambda: Images(12),
        images,
        {"pattern": "channel", "densities": (0.3, 0.6)},
        {"verify": False},
    ),
    "v2-before-totals": (Vectors, vectors, {"pattern": "gs16x8", "densities": (0.2, 0.4, 0.6)}, {"verify": False}),
}


def make(name: str) -> None:
    """Write the file, its inputs and answers, and what a reader finds in it."""
    from nested_sparse.trainer import export, nest

    build, inputs_of, nesting, writing = FILES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    model = build().eval()
    fill(model, rng)
    net = nest(model, **nesting).eval()
    fill_norms(net, rng)
    examples = inputs_of(rng)
    path = HERE / f"{name}.safetensors"
    int8 = writing.get("values") == "int8"
    if int8 and "activations" not in writing:
        writing = {**writing, "calibration": [(inputs_of(rng)[0], torch.zeros(len(examples[0]))) for _ in range(4)]}
    export(net, examples, path, **writing)
    if name == "v1-measured":
        from nested_sparse.amend import store_reroutes
        from nested_sparse.reroute import Reroute

        store_reroutes(
            path, [Reroute(2, 0, {"first": 0.5, "second": 0.625, "head": 0.75}), Reroute(1, 0, {"head": 0.5})]
        )
    arrays: dict[str, np.ndarray] = {}
    metadata = json.loads(header(path)["__metadata__"]["nested_sparse"])
    for spec, example in zip(metadata["inputs"], examples, strict=True):
        arrays[f"input/{spec['name']}"] = example.numpy()
    values = writing.get("values") == "float16"
    layers = {entry["name"]: hashlib.sha256() for entry in metadata["layers"]}
    for level in range(len(metadata["levels"])):
        net.set_level(level)
        for layer, digest in layers.items():
            weight = net.nested_layers()[layer].masked_weight(level).detach().flatten(1).numpy()
            order = getattr(net.nested_layers()[layer], "column_order", lambda: None)()
            weight = weight if order is None else weight[:, order]
            assert not values or np.array_equal(weight.astype(np.float16).astype(np.float32), weight)
            if int8:
                weight = np.where(weight != 0, rounded(net.nested_layers()[layer]), np.float32(0))
            digest.update((weight + np.float32(0)).tobytes())  # no -0
        made = integer_answers(path, arrays, level) if int8 else answers(net, examples, level)
        for spec, answer in zip(metadata["outputs"], made, strict=True):
            arrays[f"output/{level}/{spec['name']}"] = answer
    np.savez_compressed(HERE / f"{name}.npz", **arrays)
    expected = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    del metadata["graph_nbytes"], metadata["graph_sha256"]
    for level in metadata["levels"]:
        del level["sha256"]
    expected[name] = {"metadata": metadata, "weights": {layer: digest.hexdigest() for layer, digest in layers.items()}}
    lines = (f"{json.dumps(key)}: {json.dumps(expected[key])}" for key in sorted(expected))
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f'    "{name}": "{hashlib.sha256(path.read_bytes()).hexdigest()}",')


def answers(net: Any, examples: tuple[Tensor, ...], level: int) -> list[np.ndarray]:
    """Torch's, the same in float32 and float64 but for networks that round, none of them zero."""
    single, double = copy.deepcopy(net), copy.deepcopy(net).double()
    exact = not getattr(net.model, "rounds", False)
    if exact:
        checked(single, level)
    with torch.no_grad():
        got = single(*examples)
        wide = double(*(example.double() for example in examples))
    got, wide = (list(each.values()) if isinstance(each, dict) else [each] for each in (got, wide))
    for one, other in zip(got, wide, strict=True):
        assert torch.equal(one.double(), other) or not exact
        assert one.abs().min() > 0
    return [each.numpy() for each in got]


def integer_answers(path: Path, arrays: dict[str, np.ndarray], level: int) -> list[np.ndarray]:
    """Those of the integer reference."""
    from integer_model import IntegerModel

    inputs = {name.removeprefix("input/"): array for name, array in arrays.items() if name.startswith("input/")}
    return list(IntegerModel(path).run(inputs, level).values())


def rounded(layer: Any) -> np.ndarray:
    """(O, K) weights of the densest level as whole multiples of their row's scale."""
    from integer_reference import quantised_rows, row_scales

    weight = layer.masked_weight(len(THREE) - 1).detach().flatten(1).numpy()
    scales = row_scales(weight)
    return quantised_rows(weight, scales).astype(np.float32) * scales[:, None]


def header(path: Path) -> dict[str, Any]:
    raw = path.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkout", type=Path)
    parser.add_argument("names", nargs="+", choices=FILES, metavar="NAME")
    arguments = parser.parse_args()
    if arguments.checkout:
        sys.meta_path[:] = [finder for finder in sys.meta_path if "Scikit" not in type(finder).__name__]
        sys.path.insert(0, str(arguments.checkout.resolve()))
    for name in arguments.names:
        make(name)


if __name__ == "__main__":
    main()
