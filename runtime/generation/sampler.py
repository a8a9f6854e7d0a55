"""Sampler: the choice of a byte by its logits."""

from __future__ import annotations

import numpy as np

from nested_sparse.errors import ServingError

from ..session import Array


class Sampler:
    """Draws bytes. temperature: divides the logits; 0: the likeliest byte, the first of equal ones. seed: of the draws.

    The same seed, temperature and logits give the same bytes. None: a seed of the system's.
    """

    def __init__(self, temperature: float, seed: int | None) -> None:
        self._temperature = temperature
        self._random = np.random.default_rng(seed)

    def pick(self, logits: Array) -> int:
        """A byte by its logits, floating point (256,). Raises ServingError where one is no number."""
        values = logits.astype(np.float64)
        if np.isnan(values).any() or not np.isfinite(values.max()):
            raise ServingError("the model's logits are not finite: its file, or what it was trained on, is damaged")
        if not self._temperature:
            return int(values.argmax())
        with np.errstate(over="ignore"):  # of a tiny temperature: all but the likeliest become -inf
            weights = np.exp((values - values.max()) / self._temperature)
        ends = np.cumsum(weights)
        # side "right" leaves out bytes of weight 0; without the last end, rounding up to it gives a byte, too
        return int(np.searchsorted(ends[:-1], self._random.random() * ends[-1], side="right"))
