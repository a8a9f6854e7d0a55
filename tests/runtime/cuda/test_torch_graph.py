"""A session on a GPU: whole networks at every level against the session on the CPU, with Triton's interpreter here."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import interpreted  # noqa: F401 -- switches Triton's interpreter on
import numpy as np
import pytest
import torch
from torch import nn

from nested_sparse.errors import CheckpointError, InputError, KernelError, UnavailableError
from nested_sparse.runtime import Session
from nested_sparse.runtime.cuda import torch_graph
from nested_sparse.runtime.session import LevelCell
from nested_sparse.trainer import export, nest
from nested_sparse.trainer.zoo import GPT
from support import ROOT

DENSITIES = (0.2, 0.6)
GOLDEN = ROOT / "tests" / "golden"


class Images(nn.Module):
    """A whole stem, strided and grouped convolutions, a sum, a pool, a norm alone, a function, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 12, 3, padding=1)
        self.strided, self.norm = nn.Conv2d(12, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64)
        self.grouped, self.point = nn.Conv2d(64, 64, (3, 1), padding=(1, 0), groups=2), nn.Conv2d(64, 64, 1)
        self.own, self.head = nn.BatchNorm2d(64), nn.Linear(64, 35)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 2, H, W) to (N, 35)."""
        x = torch.relu(self.norm(self.strided(torch.relu(self.stem(x)))))
        x = nn.functional.max_pool2d(x, 2)
        x = torch.relu(self.point(nn.functional.silu(self.grouped(x))) + x)
        y: torch.Tensor = self.head((self.own(x) + 1).mean((2, 3)))
        return y


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a network with random masks and norms, by name; each is made once."""
    folder, made = tmp_path_factory.mktemp("cuda"), {}

    def path_of(name: str) -> Path:
        if name not in made:
            torch.manual_seed(0)
            torch.set_num_threads(1)
            model, example, options = NETS[name]()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.normal_(module.running_mean)
                    nn.init.uniform_(module.running_var, 0.5, 2.0)
            net = nest(model, densities=DENSITIES, **options).eval()
            made[name] = export(net, (example,), folder / f"{name}.safetensors", verify=False)
        return made[name]

    return path_of


def lines() -> nn.Module:
    """Convolutions of lines, with a function between them that no layer takes over, and a whole linear layer."""
    return nn.Sequential(
        *(nn.Conv1d(3, 40, 3, padding=1), nn.Tanh(), nn.Conv1d(40, 33, 2)), nn.Flatten(), nn.Linear(231, 3)
    )


NETS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor, dict[str, Any]]]] = {
    "images": lambda: (Images(), torch.randn(2, 2, 9, 8), {"pattern": "block32x1", "keep_dense": ("stem",)}),
    "words": lambda: (
        GPT(width=32, depth=1, heads=2, vocabulary=40, longest=9),
        torch.randint(0, 40, (2, 9)),
        {"pattern": "block64x1", "row_shuffle": True},
    ),
    "lines": lambda: (lines(), torch.randn(2, 3, 8), {"pattern": "block32x1", "keep_dense": ("4",)}),
}


def inputs_of(session: Session) -> dict[str, np.ndarray]:
    """Two samples."""
    rng, (spec,) = np.random.default_rng(1), session.inputs
    shape = (2, *spec.example_shape[1:])
    words = spec.dtype != "float32"
    return {spec.name: (rng.integers(0, 40, shape) if words else rng.standard_normal(shape)).astype(spec.dtype)}


@pytest.mark.parametrize("name", ["images", "words", "lines"])
def test_it_answers_as_the_cpu_does(name: str, written: Callable[[str], Path]) -> None:
    """Every level, in float32 to rounding, in float16 nearly; level by level in one session, and back."""
    path = written(name)
    with Session(path, threads=1) as cpu, Session(path, device="cuda", dtype="float32") as gpu:
        inputs = inputs_of(cpu)
        assert (gpu.inputs, gpu.outputs, gpu.levels, gpu.rows) == (cpu.inputs, cpu.outputs, cpu.levels, cpu.rows)
        expected = [cpu.run(inputs, level)["output"] for level in range(2)]
        assert not np.allclose(*expected, atol=1e-3)
        for level in (1, 0, 1):
            got = gpu.run(inputs, level)["output"]
            assert (got.dtype, got.shape) == (np.float32, expected[level].shape)
            np.testing.assert_allclose(got, expected[level], rtol=0, atol=2e-5 * np.abs(expected[level]).max())
    with Session(path, device="cuda") as gpu:
        assert gpu.dtype == "float16"
        np.testing.assert_allclose(gpu.run(inputs)["output"], expected[1], atol=2e-2 * np.abs(expected[1]).max())


def test_a_level_lowered_in_mid_inference_is_obeyed_by_the_layers_that_follow(written: Callable[[str], Path]) -> None:
    """The cell falls behind the first layer: the others run as at level 0 behind that layer at level 1."""
    with Session(written("lines"), device="cuda", dtype="float32") as session:
        inputs, cell = inputs_of(session), LevelCell(1)
        whole = [session.run(inputs, level)["output"] for level in range(2)]
        steps = session._gpu._steps  # type: ignore[union-attr]
        first, made = steps[0].function, []

        def lowering(values: Any) -> Any:
            made.append(first(values))
            cell.lower(0)
            return made[0]

        object.__setattr__(steps[0], "function", lowering)
        lowered = session.run(inputs, cell)["output"]
        object.__setattr__(steps[0], "function", lambda values: made[0])
        np.testing.assert_array_equal(lowered, session.run(inputs, 0)["output"])
        assert not any(np.allclose(lowered, each, atol=1e-4) for each in whole)


def test_a_session_on_a_gpu_has_the_surface_of_every_session(written: Callable[[str], Path]) -> None:
    """Its memory by level, other batches, pickling, closing."""
    with Session(written("lines"), device="cuda", dtype="float32") as session:
        entries = [entry for entry in session._checkpoint.layers if entry.name != "4"]
        nbytes = session.resident_bytes()
        assert nbytes is not None
        assert nbytes[1] == sum(entry.blocks[1] for entry in entries) * (4 + 32 * 4)
        assert nbytes[0] > 0
        again = pickle.loads(pickle.dumps(session))
        assert (again.device, again.dtype) == ("cuda", "float32")
        x = np.ones((5, 3, 8), np.float32)
        np.testing.assert_array_equal(again.run({"input": x})["output"], session.run({"input": x})["output"])
        again.close()
        with pytest.raises(UnavailableError, match="closed"):
            again.run({"input": x})
        with pytest.raises(InputError, match="expected float32"):
            session.run({"input": x.astype(np.float64)})
        with pytest.raises(InputError, match="a CPU has threads"):
            session.threads = 2
        with pytest.raises(InputError, match="on a GPU lower a LevelCell"):
            session.run({"input": x}, 1, guard=object())  # type: ignore[arg-type]


def test_a_word_out_of_range_is_refused(written: Callable[[str], Path]) -> None:
    """On a GPU it would end the process; the session goes on."""
    with Session(written("words"), device="cuda", dtype="float32") as session:
        inputs = inputs_of(session)
        wrong = {name: np.full_like(array, 40) for name, array in inputs.items()}
        with pytest.raises(InputError, match="a place is outside of -40 to 39"):
            session.run(wrong)
        assert np.isfinite(session.run(inputs)["output"]).all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "v1-block4x1-shuffled",
            "NestedConv of layer '.*it has block.*; a GPU runs block32x1, block64x1, block128x1",
        ),
        ("v2-gs8x1", "NestedLinear of layer 'first': it has gs8x1 in blocks of 1 rows and float32 values"),
        (
            "v4-gs8x1-dynamic",
            "QuantizedLinear of layer 'first': a GPU runs NestedLinear, NestedConv, TiledM",
        ),
        ("v5-recurrent", "a GPU runs "),
    ],
)
def test_what_a_gpu_cannot_run_is_named_when_the_file_is_opened(name: str, said: str) -> None:
    """The layer, the reason, and what to do."""
    with pytest.raises(CheckpointError, match=f"{name}.safetensors: .*{said}"):
        Session(GOLDEN / f"{name}.safetensors", device="cuda")


def test_a_node_without_a_function_is_named(written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """And the device where the file runs."""
    monkeypatch.delitem(torch_graph.FUNCTIONS, "Tanh")
    with pytest.raises(CheckpointError, match=r"is a Tanh, which has no function for a GPU.*device='cpu'"):
        Session(written("lines"), device="cuda")


def test_arguments_that_mean_nothing_are_refused(written: Callable[[str], Path], tmp_path: Path) -> None:
    """Devices, types, and a profile of ONNX Runtime."""
    path = written("lines")
    for options, said in (
        ({"device": "tpu"}, "device: expected 'cpu', 'cuda' or"),
        ({"device": "cuda", "dtype": "int8"}, "dtype: expected one of float16, bfloat16, float32, got 'int8'"),
        ({"dtype": "float16"}, "dtype: leave it out"),
        ({"device": "cuda", "profile_to": tmp_path}, "torch.profiler"),
    ):
        with pytest.raises(InputError, match=said):
            Session(path, **options)  # type: ignore[arg-type]


def test_a_device_without_cuda_is_told(written: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """And one where the extra is missing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(KernelError, match="finds no CUDA device; check nvidia-smi"):
        Session(written("lines"), device="cuda")
    monkeypatch.setitem(__import__("sys").modules, torch_graph.__name__.rpartition(".")[0], None)
    with pytest.raises(KernelError, match=r"needs the extra \[gpu\]: pip install 'nested-sparse\[gpu\]'"):
        Session(written("lines"), device="cuda")
