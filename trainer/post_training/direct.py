"""Direct: least-squares values by a Cholesky factorisation of each support, for supports that are a small part of rows.

Conjugate gradients multiply whole rows by the whole Hessian at each step. A row that keeps a twentieth of its weights
needs a four-hundredth of the Hessian, and the rows of a block have one support, so one factor serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CALL_S, ENTRY_S, FLOP_S = 1e-4, 4e-9, 1.7e-11
"""Seconds that a support takes: for itself, for each entry of its part of the Hessian, and for each operation of its
factor. Measured on one AVX-512 core, float32, 248 and 996 columns; in float64 both ways take twice the time."""
STEP_WEIGHT_S, STEP_FLOP_S = 5e-9, 6.7e-12
"""Seconds that a step of conjugate gradients takes: for each weight, and for each operation of its product."""


LEFT = 1e-3
"""Largest part of a residual that a solution may leave. Of a damped Hessian it leaves about a millionth."""


@dataclass(frozen=True, slots=True)
class Support:
    """Rows of a group that are free in the same columns. rows, columns: int64 indices."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


def supports(free: Tensor) -> list[list[Support]]:
    """The supports of each group of `free`, bool (groups, O', K); rows with no free weight are in none."""
    return [_supports(each) for each in free.cpu().numpy()]


def is_faster(found: Sequence[Sequence[Support]], shape: Sequence[int], steps: int) -> bool:
    """Whether factors of these supports take less time than `steps` of conjugate gradients.

    shape: of the weights, (groups, O', K). The answer follows from the sizes alone, so a model has the same levels on
    every machine.
    """
    groups, rows, columns = shape
    weights = groups * rows * columns
    iterative_s = steps * weights * (STEP_WEIGHT_S + 2 * columns * STEP_FLOP_S)
    sizes = np.array([len(each.columns) for of_group in found for each in of_group], np.float64)
    return float((CALL_S + sizes**2 * ENTRY_S + sizes**3 / 3 * FLOP_S).sum()) < iterative_s


def solved(hessian: Tensor, residual: Tensor, found: Sequence[Sequence[Support]]) -> Tensor | None:
    """(groups, O', K) the changes of the free weights that bring `residual`, the negative gradient, to zero there.

    None where a part of the Hessian is not positive definite in its precision, or so nearly that the residual stays.
    """
    change = torch.zeros_like(residual)
    for group, of_group in enumerate(found):
        for support in of_group:
            rows, columns = (torch.from_numpy(each).to(residual.device) for each in (support.rows, support.columns))
            part = hessian[group].index_select(0, columns).index_select(1, columns)
            factor, failed = torch.linalg.cholesky_ex(part)
            if failed:
                return None
            wanted = residual[group].index_select(0, rows).index_select(1, columns)
            found_change = torch.cholesky_solve(wanted.mT, factor).mT
            left = torch.addmm(wanted, found_change, part, alpha=-1)
            if not left.norm() <= LEFT * wanted.norm():  # also where it is not finite
                return None
            change[group, rows[:, None], columns] = found_change
    return change


def _supports(free: NDArray[np.bool_]) -> list[Support]:
    _, first, place = np.unique(np.packbits(free, axis=1), axis=0, return_index=True, return_inverse=True)
    rows = np.split(np.argsort(place.reshape(-1), kind="stable"), np.cumsum(np.bincount(place.reshape(-1)))[:-1])
    found = [Support(each, np.flatnonzero(free[row])) for each, row in zip(rows, first, strict=True)]
    return [each for each in found if len(each.columns)]
