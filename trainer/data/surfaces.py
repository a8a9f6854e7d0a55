"""Surfaces: blocks, surfaces of revolution and rings, with points drawn on them evenly by area."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
RING_CELLS = 256
"""Cells of a ring's tube, of which each is drawn by its area."""


class Surface(Protocol):
    """A surface in space."""

    @property
    def area(self) -> float:
        """Its area; of a ring without its ends."""
        ...

    def drawn(self, count: int, rng: np.random.Generator) -> tuple[Points, Points]:
        """`count` points, each piece of the area alike likely, and their outward normals; (count, 3) each."""
        ...


@dataclass(frozen=True, eq=False)
class Block:
    """A parallelepiped: a corner, and the three edges that leave it, (3, 3)."""

    corner: ArrayLike
    edges: ArrayLike

    @property
    def area(self) -> float:
        """Twice that of its three different faces."""
        return 2 * float(np.linalg.norm(self._normals(), axis=1).sum())

    def drawn(self, count: int, rng: np.random.Generator) -> tuple[Points, Points]:
        """Points and normals, as `Surface` says."""
        normals = self._normals()
        areas = np.linalg.norm(normals, axis=1)
        across = rng.choice(3, count, p=areas / areas.sum())
        far = rng.integers(0, 2, count)
        shares = rng.random((count, 3))
        shares[np.arange(count), across] = far
        points = np.asarray(self.corner, float) + shares @ np.asarray(self.edges, float)
        return points, (normals / areas[:, None])[across] * (2 * far - 1)[:, None]

    def _normals(self) -> Points:
        """(3, 3): of the faces that each edge leads to, as long as the faces are large."""
        edges = np.asarray(self.edges, float)
        normals: Points = np.sign(np.linalg.det(edges)) * np.cross(edges[[1, 2, 0]], edges[[2, 0, 1]])
        return normals


def box(centre: ArrayLike, size: ArrayLike) -> Block:
    """A block along the axes."""
    size = np.asarray(size, float)
    return Block(np.asarray(centre, float) - size / 2, np.diag(size))


@dataclass(frozen=True, eq=False)
class Revolved:
    """A profile of straight lines, turned about an axis: a cylinder, a cone, a disc, or several of them.

    profile: (radius, height) of each of its corners; where they go up, the normals point away from the axis.
    axis: 0, 1 or 2, the coordinate of the heights. centre: place of radius 0 and height 0.
    """

    profile: Sequence[tuple[float, float]]
    centre: ArrayLike = (0.0, 0.0, 0.0)
    axis: int = 2

    @property
    def area(self) -> float:
        """That of all its lines."""
        return float(self._areas().sum())

    def drawn(self, count: int, rng: np.random.Generator) -> tuple[Points, Points]:
        """Points and normals, as `Surface` says."""
        areas = self._areas()
        begin, end = self._lines()
        line = rng.choice(len(areas), count, p=areas / areas.sum())
        (r0, h0), (r1, h1) = begin[line].T, end[line].T
        share = rng.random(count)  # of the line's area that is nearer to its beginning
        along = share * (r0 + r1) / (r0 + np.sqrt(r0**2 + share * (r1**2 - r0**2)))
        radius, height = r0 + along * (r1 - r0), h0 + along * (h1 - h0)
        angle = 2 * np.pi * rng.random(count)
        cos, sin, length = np.cos(angle), np.sin(angle), np.hypot(r1 - r0, h1 - h0)
        points = np.stack([radius * cos, radius * sin, height], 1)
        normals = np.stack([(h1 - h0) * cos, (h1 - h0) * sin, r0 - r1], 1) / length[:, None]
        turn = (self.axis - 2) % 3
        return np.asarray(self.centre, float) + np.roll(points, turn, 1), np.roll(normals, turn, 1)

    def _lines(self) -> tuple[Points, Points]:
        corners = np.asarray(self.profile, float)
        return corners[:-1], corners[1:]

    def _areas(self) -> Points:
        begin, end = self._lines()
        areas: Points = np.pi * (begin[:, 0] + end[:, 0]) * np.hypot(*(end - begin).T)
        return areas


@dataclass(frozen=True, eq=False)
class Ring:
    """A part of a torus that stands upright, in the plane of the first and the third coordinate.

    radius: of the circle that the tube follows. tube: radius of the tube, less than `radius`. begin, end: angles in
    radians of its ends, from the first coordinate to the third one.
    """

    centre: ArrayLike
    radius: float
    tube: float
    begin: float
    end: float

    @property
    def area(self) -> float:
        """That of the tube, by Pappus."""
        return 2 * np.pi * self.tube * self.radius * (self.end - self.begin)

    def drawn(self, count: int, rng: np.random.Generator) -> tuple[Points, Points]:
        """Points and normals, as `Surface` says."""
        cell = 2 * np.pi / RING_CELLS
        weights = self.radius + self.tube * np.cos((np.arange(RING_CELLS) + 0.5) * cell)
        around = (rng.choice(RING_CELLS, count, p=weights / weights.sum()) + rng.random(count)) * cell
        along = self.begin + (self.end - self.begin) * rng.random(count)
        normals = np.stack([np.cos(around) * np.cos(along), np.sin(around), np.cos(around) * np.sin(along)], 1)
        middle = self.radius * np.stack([np.cos(along), np.zeros(count), np.sin(along)], 1)
        return np.asarray(self.centre, float) + middle + self.tube * normals, normals
