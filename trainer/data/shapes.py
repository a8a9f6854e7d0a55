"""Shapes: clouds of points of made-up objects of five kinds, with the part that each point belongs to.

The proportions of each object are random; some lack a part, and some are seen from one side only. The ranges were
chosen so that a person would tell the kinds apart, and a small net makes mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from .samples import Samples
from .surfaces import Block, Points, Revolved, Ring, Surface, box

KINDS: dict[str, tuple[str, ...]] = {
    "table": ("top", "leg"),
    "chair": ("seat", "back", "leg", "arm"),
    "lamp": ("base", "pole", "shade"),
    "mug": ("body", "handle"),
    "aeroplane": ("fuselage", "wing", "tail", "engine"),
}
"""The parts of each kind. Classes are numbered in this order: 0 is a table's top, 2 a chair's seat."""
PARTS = sum(map(len, KINDS.values()))
FAR = 8
"""Times the jitter by which an outlier is off its surface."""
SPARE = 4
"""Points drawn for each that is wanted, where those that look away are left out: half of them, about."""

Object = list[tuple[str, Surface]]
"""The surfaces of an object, each with the name of its part."""


def make_shapes(
    count: int,
    *,
    points: int = 512,
    jitter: float = 0.02,
    outliers: float = 0.03,
    one_sided: float = 0.5,
    seed: int | Sequence[int],
) -> Samples:
    """`count` clouds, float32 (count, 3, points), and the part of each point, int64 (count, points).

    Kinds take turns. Points are drawn evenly by area, and in no order. An object stands upright, is turned about the
    vertical axis, and lies in a ball of radius 1 about the mean of its points, before it is scaled by 0.8 to 1.25.
    jitter: standard deviation of a point's place, of that radius. outliers: share of points with 8 times as much.
    one_sided: share of clouds that have points only where the surface looks to one side. seed: a number, or several.
    """
    rng = np.random.default_rng(seed)
    first = dict(zip(KINDS, accumulate(map(len, KINDS.values()), initial=0), strict=False))
    clouds, labels = np.empty((count, 3, points), np.float32), np.empty((count, points), np.int64)
    for index in range(count):
        kind = list(KINDS)[index % len(KINDS)]
        made = MAKERS[kind](rng)
        classes = [first[kind] + KINDS[kind].index(part) for part, _ in made]
        cloud, labels[index] = _seen([surface for _, surface in made], classes, points, rng.random() < one_sided, rng)
        clouds[index] = _placed(cloud, jitter, outliers, rng).T
    return Samples(torch.from_numpy(clouds), torch.from_numpy(labels))


def _seen(
    surfaces: Sequence[Surface], classes: Sequence[int], points: int, one_side: bool, rng: np.random.Generator
) -> tuple[Points, NDArray[np.int64]]:
    """Points of all surfaces in random order, and their classes."""
    areas = np.array([surface.area for surface in surfaces])
    which = rng.choice(len(areas), points * (SPARE if one_side else 1), p=areas / areas.sum())
    places, normals = np.empty((len(which), 3)), np.empty((len(which), 3))
    for index, surface in enumerate(surfaces):
        mine = which == index
        places[mine], normals[mine] = surface.drawn(int(mine.sum()), rng)
    kept = np.arange(points)
    if one_side:
        angle, height = 2 * np.pi * rng.random(), rng.uniform(0.2, 0.8)
        visible = np.flatnonzero(normals @ (np.cos(angle), np.sin(angle), height) > 0)
        kept = visible[:points] if len(visible) >= points else rng.choice(visible, points)
    return places[kept], np.asarray(classes)[which[kept]]


def _placed(cloud: Points, jitter: float, outliers: float, rng: np.random.Generator) -> Points:
    """The cloud turned about the vertical axis, moved to the middle, scaled, and with noise."""
    angle = 2 * np.pi * rng.random()
    cos, sin = np.cos(angle), np.sin(angle)
    cloud = (cloud - cloud.mean(0)) @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    cloud /= np.linalg.norm(cloud, axis=1).max()
    spread = jitter * np.where(rng.random((len(cloud), 1)) < outliers, FAR, 1)
    return (cloud + spread * rng.standard_normal(cloud.shape)) * rng.uniform(0.8, 1.25)


def _rod(radius: float, low: float, high: float, x: float = 0.0, y: float = 0.0) -> Revolved:
    """A closed cylinder that stands upright."""
    return Revolved([(0, low), (radius, low), (radius, high), (0, high)], (x, y, 0.0))


def _legs(rng: np.random.Generator, width: float, depth: float, height: float) -> list[Surface]:
    """Four legs under a plate at `height`, or one in the middle that stands on a disc."""
    thick = rng.uniform(0.02, 0.05)
    if rng.random() < 0.3:
        return [_rod(thick, 0, height), _rod(rng.uniform(0.3, 0.45) * min(width, depth), 0, 0.03)]
    out = rng.uniform(-0.1, 0.15)  # legs lean inwards or outwards
    legs: list[Surface] = []
    for x in (-1, 1):
        for y in (-1, 1):
            foot = np.array([x * (width / 2 - thick) * (1 + out), y * (depth / 2 - thick) * (1 + out), 0])
            above = np.array([x * (width / 2 - thick), y * (depth / 2 - thick), height])
            edges = np.array([[thick, 0, 0], [0, thick, 0], above - foot])
            legs.append(Block(foot - [thick / 2, thick / 2, 0], edges))
    return legs


def _table(rng: np.random.Generator) -> Object:
    width, depth, height, thick = rng.uniform((0.6, 0.5, 0.35, 0.03), (1.6, 1.0, 0.9, 0.08))
    if rng.random() < 0.3:
        depth = width
        top: Surface = _rod(width / 2, height, height + thick)
        spread = width / np.sqrt(2)
    else:
        top, spread = box((0, 0, height + thick / 2), (width, depth, thick)), width
    legs = _legs(rng, spread, min(depth, spread), height)
    if rng.random() < 0.25:  # a shelf between the legs, which belongs to the top
        low = rng.uniform(0.2, 0.5) * height
        return [("top", top), ("top", box((0, 0, low), (0.9 * spread, 0.9 * min(depth, spread), 0.03)))] + [
            ("leg", leg) for leg in legs
        ]
    return [("top", top)] + [("leg", leg) for leg in legs]


def _chair(rng: np.random.Generator) -> Object:
    width, depth, height, thick, rise = rng.uniform((0.4, 0.4, 0.35, 0.03, 0.3), (0.6, 0.6, 0.55, 0.1, 0.8))
    over = height + thick
    made: Object = [("seat", box((0, 0, height + thick / 2), (width, depth, thick)))]
    made += [("leg", leg) for leg in _legs(rng, width, depth, height)]
    if rng.random() < 0.85:  # else a stool
        edges = [[width, 0, 0], [0, 0.05, 0], [0, rng.uniform(0, 0.2), rise]]
        made.append(("back", Block((-width / 2, depth / 2 - 0.05, over), edges)))
    if rng.random() < 0.5:
        above, wide = rng.uniform(0.15, 0.28), rng.uniform(0.03, 0.07)
        for x in (-width / 2, width / 2):
            made.append(("arm", box((x, 0, over + above), (wide, depth, 0.04))))
            made.append(("arm", box((x, -depth / 2 + wide, over + above / 2), (wide, wide, above))))
    return made


def _lamp(rng: np.random.Generator) -> Object:
    height, low, high, shade = rng.uniform((0.3, 0.15, 0.06, 0.15), (1.2, 0.3, 0.2, 0.4))
    base, tall, thick = rng.uniform((0.08, 0.02, 0.01), (0.25, 0.3, 0.035))
    foot = Revolved([(0, 0), (base, 0), (rng.uniform(0.3, 1) * base, tall), (0, tall)])
    made: Object = [("base", foot), ("pole", _rod(thick, tall, tall + height))]
    if rng.random() < 0.9:  # else a bare pole
        begin = tall + height - rng.uniform(0.3, 0.9) * shade
        made.append(("shade", Revolved([(low, begin), (min(low, high), begin + shade)])))
    return made


def _mug(rng: np.random.Generator) -> Object:
    low, high, height = rng.uniform((0.25, 0.25, 0.4), (0.45, 0.5, 1.1))
    wall = 0.03
    inside = [(high - wall, height), (low - wall, wall), (0, wall)]
    made: Object = [("body", Revolved([(0, 0), (low, 0), (high, height), *inside]))]
    if rng.random() < 0.9:
        radius, tube = rng.uniform((0.2, 0.03), (0.4, 0.07))
        middle = (0.5 * (low + high), 0, rng.uniform(0.45, 0.6) * height)
        made.append(("handle", Ring(middle, radius * min(height, 0.7), tube, -np.pi / 2, np.pi / 2)))
    return made


def _aeroplane(rng: np.random.Generator) -> Object:
    radius, length, span, chord, sweep = rng.uniform((0.06, 0.8, 0.5, 0.15, -0.1), (0.14, 1.4, 1.0, 0.35, 0.5))
    nose, cone = 0.15 * length, rng.uniform(0.2, 0.4) * length
    profile = [(0, 0), (radius, nose), (radius, length - cone), (0.2 * radius, length), (0, length)]
    made: Object = [("fuselage", Revolved(profile, (-length / 2, 0, 0), axis=0))]
    front, rise, level = rng.uniform(-0.2, 0.05) * length, rng.uniform(-0.05, 0.15), rng.choice((-0.6, 0, 0.8)) * radius
    fin, small, engines = rng.uniform(0.12, 0.35), rng.uniform(0.12, 0.4), rng.random() < 0.6
    back, at_fin = length / 2 - 0.6 * cone, rng.random() < 0.3  # the tail's wings sit on the fuselage or on the fin
    made.append(("tail", Block((back, -0.0125, 0), [[0.5 * chord, 0, 0], [0.6 * fin, 0, fin], [0, 0.025, 0]])))
    for side in (-1, 1):
        edges = [[chord, 0, 0], [sweep * span, side * span, rise * span], [0, 0, 0.025]]
        made.append(("wing", Block((front, 0, level), edges)))
        edges = [[0.4 * chord, 0, 0], [0.4 * small, side * small, 0], [0, 0, 0.02]]
        made.append(("tail", Block((back + 0.6 * fin * at_fin, 0, fin * at_fin), edges)))
        if engines:
            away, pod = 0.4 * span, 0.5 * radius
            place = (front + sweep * away, side * away, level + rise * away - pod)
            made.append(("engine", Revolved([(0, 0), (pod, 0), (0.7 * pod, chord), (0, chord)], place, axis=0)))
    return made


MAKERS: dict[str, Callable[[np.random.Generator], Object]] = {
    "table": _table,
    "chair": _chair,
    "lamp": _lamp,
    "mug": _mug,
    "aeroplane": _aeroplane,
}
"""Functions that make an object of each kind."""
