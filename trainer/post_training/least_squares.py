"""Least squares: the best values of a layer's kept weights, and the loss that removing each of them costs.

Optimal Brain Surgeon layer by layer (OBC, arXiv:2208.11580): the loss of a layer's weights is the mean squared error of
its outputs, a quadratic function whose Hessian is the second moment of the inputs, the same for all rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .direct import is_faster, solved, supports

SINGLE_PRECISION_COLUMNS = 2048
"""Largest K computed in float64. Above it float32 takes half the time and memory; damping covers the rounding."""
FITTING = 2.0**40
"""Largest inputs, and as a part of one the least, whose squares and sums float32 holds with room."""
USUAL_STEPS = 17
"""Steps of conjugate gradients that usual layers take to a residual of 1e-4."""


@dataclass(frozen=True, slots=True)
class Quadratic:
    """The loss of weights v (groups, O', K): for each row v·A·v / 2 - b·v, plus a constant; O' rows per group.

    hessian: A, (groups, K, K), symmetric and positive definite. linear: b, (groups, O', K).
    """

    hessian: Tensor
    linear: Tensor

    def loss(self, v: Tensor) -> Tensor:
        """(groups, O') the loss of every row, without its constant."""
        return ((v @ self.hessian / 2 - self.linear) * v).sum(dim=-1)

    def single(self) -> Quadratic:
        """The same problem in float32, each group in a unit of its own that float32 holds; its minima are the same."""
        unit = power_of_two(self.hessian.diagonal(dim1=1, dim2=2))[..., None]
        return Quadratic((self.hessian / unit).float(), (self.linear / unit).float())


def power_of_two(x: Tensor) -> Tensor:
    """(groups, 1) for each group of `x` (groups, ...) the power of two at or below its largest magnitude; 1 for zeros.

    A division by it changes no digit. dtype: that of `x`, at least float32.
    """
    others = tuple(range(1, x.ndim))
    largest = torch.maximum(-x.amin(dim=others), x.amax(dim=others))[:, None]
    largest = largest.to(torch.promote_types(x.dtype, torch.float32))
    return torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 1), 1)


def precise(tensor: Tensor) -> Tensor:
    """`tensor` (groups, n, K) as float64, or as float32 if K is above SINGLE_PRECISION_COLUMNS and squares fit."""
    unit = power_of_two(tensor)
    fits = bool(((unit < FITTING) & (unit > 1 / FITTING)).all())
    return tensor.to(torch.float32 if fits and tensor.shape[-1] > SINGLE_PRECISION_COLUMNS else torch.float64)


def second_moment(x: Tensor) -> Tensor:
    """(groups, K, K) mean of the products of any two of the inputs `x` (groups, n, K)."""
    x = precise(x)
    return x.mT @ x / x.shape[1]


def damped(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """`hessian` (groups, K, K) plus `damping` times the mean of its diagonal on the diagonal; and the added value.

    The added value has shape (groups, 1, 1). It is 1 where the diagonal is zero, as for a layer without inputs.
    """
    added = damping * hessian.diagonal(dim1=1, dim2=2).mean(dim=1)
    added = torch.where(added > 0, added, torch.ones_like(added))[:, None]
    result = hessian.clone()
    result.diagonal(dim1=1, dim2=2).add_(added)
    return result, added[..., None]


def same_inputs(moment: Tensor, mean: Tensor, dense: Tensor, damping: float, *, centred: bool) -> Quadratic:
    """Half the mean squared difference from the outputs of the `dense` weights on the same inputs, damped.

    moment, mean: (groups, K, K) and (groups, K) of the inputs. dense, damping, centred: as of `output_error`.
    """
    hessian, _ = damped(moment - mean[:, :, None] * mean[:, None] if centred else moment, damping)
    return Quadratic(hessian, dense.to(hessian.dtype) @ hessian)


def output_error(x: Tensor, targets: Tensor, dense: Tensor, damping: float, *, centred: bool) -> Quadratic:
    """Half the mean squared error of x·vᵀ against `targets`, damped towards the `dense` weights.

    x: (groups, n, K) inputs. targets: (groups, n, O'). dense: (groups, O', K).
    damping: value added to the Hessian's diagonal, as a part of the diagonal's mean.
    centred: whether the mean of each output is corrected afterwards, by a bias or a norm, and does not count as error.
    """
    x = precise(x)
    targets, dense = targets.to(x.dtype), dense.to(x.dtype)
    if centred:
        x, targets = x - x.mean(dim=1, keepdim=True), targets - targets.mean(dim=1, keepdim=True)
    hessian, added = damped(x.mT @ x / x.shape[1], damping)
    return Quadratic(hessian, targets.mT @ x / x.shape[1] + added * dense)


def fit(problem: Quadratic, start: Tensor, free: Tensor, *, steps: int, tolerance: float = 1e-6) -> Tensor:
    """The weights of least loss among those that differ from `start` only where `free` is true.

    Each support is solved at once where that is faster (direct.py), else all rows by conjugate gradients.
    start: (groups, O', K). free: bool, the same shape. steps, tolerance: as of `descended`; without steps, `start`.
    """
    v = start.to(problem.linear.dtype)
    residual = torch.baddbmm(problem.linear, v, problem.hessian, alpha=-1)
    if free.device.type == "cpu":
        found = supports(free)
        if is_faster(found, free.shape, min(steps, USUAL_STEPS)):
            change = solved(problem.hessian, residual, found)
            if change is not None:
                return v + change
    return descended(problem, v, residual, free, steps=steps, tolerance=tolerance)


def descended(problem: Quadratic, v: Tensor, residual: Tensor, free: Tensor, *, steps: int, tolerance: float) -> Tensor:
    """`v` after conjugate gradients on all rows at once, with the Hessian's diagonal as preconditioner.

    A step takes one product of the weight and the Hessian. Each step lowers every row's loss, so the result is never
    worse than the start. residual: the negative gradient at `v`; it is overwritten.
    steps: maximum number of steps. tolerance: residual, as a part of the linear term, at which a row is done; the
    method ends when all rows are.
    """
    v = v.clone()
    # zero where a weight is not free, so that its part of `residual` and `along` never counts
    inverse = torch.where(free, 1 / problem.hessian.diagonal(dim1=1, dim2=2)[:, None], 0)
    enough = tolerance * (problem.linear.square() * inverse).sum(dim=-1, keepdim=True).sqrt()
    tiny = torch.finfo(v.dtype).tiny
    scaled = inverse * residual
    direction = scaled.clone()
    along, products = torch.empty_like(v), torch.empty_like(v)  # new memory at each step costs as much as the sums
    size = torch.mul(residual, scaled, out=products).sum(dim=-1, keepdim=True)
    for _ in range(steps):
        active = size.sqrt() > enough
        if not active.any():
            break
        torch.bmm(direction, problem.hessian, out=along)
        curvature = torch.mul(direction, along, out=products).sum(dim=-1, keepdim=True)
        step = torch.where(active & (curvature > 0), size / curvature.clamp_min(tiny), 0)
        v.addcmul_(direction, step)
        residual.addcmul_(along, step, value=-1)
        torch.mul(inverse, residual, out=scaled)
        before, size = size, torch.mul(residual, scaled, out=products).sum(dim=-1, keepdim=True)
        turn = torch.where(before > 0, size / before.clamp_min(tiny), 0)
        torch.addcmul(scaled, direction, turn, out=direction)
    return v


def best_scale(sums: Tensor, targets: Tensor, *, centred: bool) -> Tensor:
    """(groups, O') the factor of each column of `sums` (groups, n, O') that brings it nearest to that of `targets`.

    centred: as of `output_error`. 1 where no positive factor does. Values of any size that the type holds will do.
    """
    unit, targets_unit = power_of_two(sums), power_of_two(targets)
    sums, targets = sums / unit[..., None], targets / targets_unit[..., None]
    if centred:
        sums, targets = sums - sums.mean(dim=1, keepdim=True), targets - targets.mean(dim=1, keepdim=True)
    along, power = (sums * targets).sum(dim=1), sums.square().sum(dim=1)
    return torch.where((along > 0) & (power > 0), along / power * (targets_unit / unit), 1.0)


def stiffness(hessian: Tensor) -> Tensor:
    """(groups, K) 1 / [A⁻¹]ₖₖ: twice the loss of removing one unit of weight k when all other weights compensate.

    Half the square of a weight, times its stiffness, is its saliency in Optimal Brain Surgeon.
    """
    factor = torch.linalg.cholesky(hessian)
    return 1 / torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2)
