"""Diagnosis: a file that disagrees with torch gets the reason in the model; other cases ask for a report."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nested_sparse.errors import ExportError
from nested_sparse.runtime import Session
from nested_sparse.trainer import export, nest


class Block(nn.Module):
    """A layer before and after an odd module."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.before, self.odd, self.after = nn.Linear(8, 8), odd, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.odd(self.before(x)))


class AlwaysDrops(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)  # training=True is the default


class AddsNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class TossesACoin(nn.Module):
    """A module with Python's random generator, which torch does not control."""

    def forward(self, x: Tensor) -> Tensor:
        return x * random.random()


class Seeds(nn.Module):
    """A module with noise that is equal at every call, but not in a file."""

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return x + torch.rand_like(x)


class Autocasts(nn.Module):
    """A module that computes below float32 between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return (x @ self.project).float()


class AttendsInHalf(nn.Module):
    """A module with attention in float16, which torch marks as random for a dropout that it does not have."""

    def forward(self, x: Tensor) -> Tensor:
        heads = x.reshape(-1, 1, 4, 2).half()
        return 30 * F.scaled_dot_product_attention(heads, heads, heads).float().reshape(-1, 8)


class Amplifies(nn.Module):
    """A module that amplifies rounding: float32 cannot represent a large angle well enough for its sine."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 3e6).sin()


class Accumulates(nn.Module):
    """A module that stores its input in an attribute that is not a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(8)

    def forward(self, x: Tensor) -> Tensor:
        self.total += x.mean(0)
        return x + self.total


def exported(odd: nn.Module, folder: Path) -> None:
    torch.manual_seed(0)
    random.seed(0)
    net = nest(Block(odd), densities=(0.5, 1.0)).eval()
    export(net, (torch.randn(3, 8),), folder / "net.safetensors")


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (AlwaysDrops(), r"not deterministic: module 'odd' \(AlwaysDrops\) draws random numbers \(aten\.\w+.*\)"),
        (AddsNoise(), r"not deterministic: module 'odd' \(AddsNoise\) draws random numbers \(aten\.randn_like"),
        (Seeds(), r"not deterministic: module 'odd' \(Seeds\) draws random numbers \(aten\.rand_like"),
        (TossesACoin(), r"not deterministic: two runs of torch on the same inputs differ by"),
        (Autocasts(), r"module 'odd' \(Autocasts\) computes under autocast.*leave autocast out of forward"),
        (
            AttendsInHalf(),
            r"module 'odd' \(AttendsInHalf\) computes in float16 .*compute in float32, or raise `tolerance`",
        ),
        (Accumulates(), r"keeps state between calls: it changes 'odd\.total'"),
    ],
)
def test_the_model_is_told_what_is_wrong_with_it(odd: nn.Module, message: str, tmp_path: Path) -> None:
    """The error names the module, without asking for a report; no file is written."""
    with pytest.raises(ExportError, match=message) as caught:
        exported(odd, tmp_path)
    assert "please report" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (
            Amplifies(),
            r"badly conditioned: torch's own answer in float32 is \S+ of the largest magnitude away .*file's",
        ),
        (nn.ReLU(), r"an operator or the graph is at fault: please report the model"),
    ],
)
def test_only_a_sound_model_asks_for_a_report(
    odd: nn.Module, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that torch's own float32 makes, too, is the model's, with both figures; other errors are ours."""
    truth = Session.run

    def wrong(self: Session, inputs: dict, level: int = -1) -> dict[str, np.ndarray]:
        return {name: array + 1e-3 * np.abs(array).max() for name, array in truth(self, inputs, level=level).items()}

    monkeypatch.setattr(Session, "run", wrong)
    with pytest.raises(ExportError, match=message):
        exported(odd, tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("inf"), "the inputs hold NaN or infinity: torch multiplies"), (3e38, "leave the range of float32")],
)
def test_values_that_are_no_numbers_are_said(value: float, message: str, tmp_path: Path) -> None:
    """One sample that torch answers with NaN or infinity, and one that it answers with numbers."""
    torch.manual_seed(0)
    net = nest(nn.Sequential(nn.Linear(8, 8), nn.Hardswish(), nn.Linear(8, 4)), densities=(0.5, 1.0))
    x = torch.randn(2, 8)
    x[0, 0] = value
    with pytest.raises(ExportError, match=message):
        export(net, (x,), tmp_path / "net.safetensors")


def test_a_file_that_answers_nan_asks_for_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's own numbers are finite, so it is not at fault."""
    truth = Session.run

    def wrong(self: Session, inputs: dict, level: int = -1) -> dict[str, np.ndarray]:
        return {name: np.full_like(array, np.nan) for name, array in truth(self, inputs, level=level).items()}

    monkeypatch.setattr(Session, "run", wrong)
    with pytest.raises(ExportError, match=r"NaN or infinite on one side only; .* please report the model"):
        exported(nn.ReLU(), tmp_path)


def test_a_model_that_agrees_is_not_run_again(tmp_path: Path) -> None:
    """The diagnosis costs nothing without a fault: there is one run for the trace's shapes, and one for every level and
    input of the verification.
    """

    class Counted(nn.Module):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            type(self).runs += not isinstance(x, torch._subclasses.FakeTensor) and type(x) is Tensor
            return x.relu()

    exported(Counted(), tmp_path)
    assert Counted.runs <= 1 + 2 * 2 + 1
