"""verify_export: a file that disagrees with the model gives an error and is never renamed to its final name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel, export, nest
from nested_sparse.trainer.export.trial_inputs import random_like
from nested_sparse.trainer.export.verify import Alike, disagreement, verify_export

X = (torch.linspace(-1, 1, 24).reshape(3, 8),)


@pytest.fixture
def net() -> NestedModel:
    torch.manual_seed(0)
    return nest(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)), densities=(0.3, 0.6)).eval()


def test_agreeing_file_passes(net: NestedModel, tmp_path: Path) -> None:
    """A correct file passes at every level, also with a fixed batch."""
    path = export(net, X, tmp_path / "net.safetensors", verify=False)
    verify_export(net, X, path, fixed_batch=False, agreement=Alike(1e-4))
    verify_export(net, X, path, fixed_batch=True, agreement=Alike(1e-4))


def test_other_weights_are_found_and_named(net: NestedModel, tmp_path: Path) -> None:
    """The error has output, level, error and tolerance, and the layer with wrong weights."""
    path = export(net, X, tmp_path / "net.safetensors", verify=False)
    with torch.no_grad():
        net.model[2].weight.mul_(2)
    message = r"net\.safetensors: output 'output' at level 0 .* error .* tolerance .* layer '2' is stored with other"
    with pytest.raises(ExportError, match=message):
        verify_export(net, X, path, fixed_batch=False, agreement=Alike(1e-4))


def test_wrong_operator_is_told_from_wrong_weights(net: NestedModel, tmp_path: Path) -> None:
    """With right weights, the error blames the graph or an operator."""
    path = export(net, X, tmp_path / "net.safetensors", verify=False)
    with torch.no_grad():
        net.model[0].bias[1].add_(1)
    with pytest.raises(ExportError, match=r"at level 1 .*an operator or the graph is at fault"):
        verify_export(net, X, path, fixed_batch=False, agreement=Alike(1e-4))


def test_disagreeing_export_leaves_nothing_behind(
    net: NestedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that fails its check never appears, and an older file of the same name stays."""
    truth = Session.run

    def wrong(self: Session, inputs: dict, level: int = -1) -> dict[str, np.ndarray]:
        return {name: array + level for name, array in truth(self, inputs, level=level).items()}

    monkeypatch.setattr(Session, "run", wrong)
    path = tmp_path / "net.safetensors"
    with pytest.raises(ExportError, match="at level 1"):
        export(net, X, path)
    assert list(tmp_path.iterdir()) == []
    path.write_text("older")
    with pytest.raises(ExportError, match="at level 1"):
        export(net, X, path, force=True)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


FINE = np.array([1.0, -2.0, np.nan, np.inf], np.float32)


@pytest.mark.parametrize(
    ("got", "problem"),
    [
        (FINE, ""),
        (FINE + np.float32(1e-4), ""),
        (FINE + np.float32(1e-3), "largest error 0.001"),
        (np.array([1.0, -2.0, 0.0, np.inf], np.float32), "1 of 4 values are NaN or infinite on one side only"),
        (np.array([np.nan, -2.0, np.nan, np.inf], np.float32), "1 of 4 values are NaN"),
        (np.array([1.0, -2.0, np.nan, -np.inf], np.float32), "1 of 4 values are NaN"),
        (FINE.astype(np.float64), "expected float32 (4,), got float64 (4,)"),
        (FINE[:3], "expected float32 (4,), got float32 (3,)"),
    ],
)
def test_disagreement_of_floats(got: np.ndarray, problem: str) -> None:
    """Errors are relative to the largest magnitude; NaN and infinity must be at the same places."""
    found = disagreement(FINE, got, 1e-4)
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_disagreement_of_whole_numbers() -> None:
    """Other dtypes must be equal."""
    assert disagreement(np.array([1, 2]), np.array([1, 2]), 1.0) == ""
    assert disagreement(np.array([1, 2]), np.array([1, 3]), 1.0) == "1 of 2 values differ"
    assert disagreement(np.zeros(3, np.float32), np.zeros(3, np.float32), 1e-4) == ""


def test_random_inputs_keep_dtype_range_and_take_the_batch() -> None:
    """Indices stay indices; a constant example gives noise; equal calls give equal inputs."""
    state = torch.get_rng_state()
    tokens, zeros, floats = random_like(
        (torch.tensor([[3, 5], [7, 9]]), torch.zeros(2, 3), torch.rand(2, 4)), [(7, 2), (7, 3), (7, 4)]
    )
    assert tokens.shape == (7, 2)
    assert set(tokens.flatten().tolist()) <= {3, 5, 7, 9}
    assert zeros.shape == (7, 3)
    assert zeros.std() > 0.1
    assert floats.min() >= 0
    assert random_like((torch.rand(2, 4),), [(2, 4)])[0].shape == (2, 4)
    assert random_like((torch.ones(2, 4),), [(3, 4)])[0].equal(random_like((torch.ones(2, 4),), [(3, 4)])[0])
    torch.rand(2, 4)
    torch.set_rng_state(state)


@pytest.mark.parametrize("example", [torch.full((2, 6), torch.nan), -torch.ones(2, 6)], ids=["NaN", "log of -1"])
def test_an_answer_without_a_finite_value_shows_nothing(tmp_path: Path, example: Tensor) -> None:
    """NaN equals NaN for any file, so the comparison is refused."""

    class Log(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x)

    net = nest(nn.Sequential(Log(1, 1), nn.Linear(6, 4)), densities=(0.5, 1.0))
    with pytest.raises(ExportError, match="has no finite value, so the file cannot be compared"):
        export(net, (example,), tmp_path / "m.safetensors")
    assert not any(tmp_path.iterdir())
    export(net, (example,), tmp_path / "m.safetensors", verify=False)
