"""FreeSize: a size of a model's inputs that each run may choose, beside the number of samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FreeSize:
    """One free size: the length of a sequence, the height of an image, the past length of a cache.

    name: its name; dimensions of one name have one size in a run.
    least, most: bounds, both included; most None: without one. multiple: number that divides every allowed size.
    batch: it is the number of samples, one dimension of every input that has any.
    terms: names of the free sizes of which it is the sum, with `plus`: the length of a mask over a cache and the tokens
        behind it. Such a size is not free itself, and has no bounds of its own. Empty: it is free.
    """

    name: str
    least: int = 1
    most: int | None = None
    multiple: int = 1
    batch: bool = False
    terms: tuple[str, ...] = ()
    plus: int = 0

    def allows(self, size: int) -> bool:
        """Whether a run may choose `size`."""
        return self.least <= size and (self.most is None or size <= self.most) and size % self.multiple == 0

    def sum_of(self, sizes: Mapping[str, int]) -> int:
        """The size where it is a sum, from all free sizes by name."""
        return self.plus + sum(sizes[term] for term in self.terms)

    def nearest(self, size: float) -> int:
        """An allowed size next to `size`."""
        multiple, least = self.multiple, -(-self.least // self.multiple)
        most = least if self.most is None else self.most // multiple
        steps = max(least, round(size / multiple))
        return multiple * (steps if self.most is None else max(least, min(steps, most)))

    @property
    def range_text(self) -> str:
        """The allowed sizes in words: "1 to 512", "32 or more, a multiple of 32", "past + length"."""
        if self.terms:
            return " + ".join([*self.terms, *([str(self.plus)] if self.plus else [])])
        bounds = f"{self.least} or more" if self.most is None else f"{self.least} to {self.most}"
        return bounds if self.multiple == 1 else f"{bounds}, a multiple of {self.multiple}"
