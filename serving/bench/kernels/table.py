"""The table: every row with its reach, the choice of rows by a command, and the measuring in groups."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nested_sparse.errors import NestedSparseError

from ..reach import Reach
from ..row_names import check_names, is_picked
from .int8 import INT8
from .model_cache import LINEAR, MOBILENETV2, RESNET50
from .row import ALONE, DENSE, DENSE_INT8, FILE_BYTES, OURS, RESIDENT_BYTES, Row, Spec

DENSITIES = (0.0538, 0.1338)
FIVE_DENSITIES = (0.0538, 0.1338, 0.25, 0.5, 0.9)
QUARTER = (0.25,)
PEERS = ("deepsparse", "mnn", "openvino")
INT8_PEERS = (
    "deepsparse-int8",
    "mnn-int8",
    "openvino-int8",
    "openvino-int8-noamx",
    "onnxruntime-int8",
    "onnxruntime-int8-noamx",
)
LINEAR_ROUNDS = 8
"""Rounds of linear rows, as a multiple of the other rows': a round of linear layers takes milliseconds."""

_log = logging.getLogger(__name__)


def _network(pattern: str, threads: int, sparse: float, dense: float, **more: Any) -> list[Spec]:
    """Both densities of ResNet-50. sparse, dense: bounds of the speed-up at each."""
    return [
        Spec(RESNET50, pattern, density, threads, DENSITIES, reach=Reach(">=", bound), **more)
        for density, bound in zip(reversed(DENSITIES), (dense, sparse), strict=True)
    ]


def _linear(pattern: str, reach: Reach, **more: Any) -> Spec:
    return Spec(LINEAR, pattern, QUARTER[0], 1, QUARTER, reach=reach, **more)


def _level0(bound: float, values: str) -> Spec:
    first = FIVE_DENSITIES[0]
    return Spec("level0", "block4x1", first, 1, FIVE_DENSITIES, values=values, against=ALONE, reach=Reach("<=", bound))


TABLE: tuple[Spec, ...] = (
    *_network("block4x1", 1, sparse=8.0, dense=5.0),
    *_network("block4x1", 2, sparse=7.0, dense=4.5),
    *_network("unstructured", 1, sparse=4.0, dense=2.5),
    Spec("conv-rate", "block4x1", DENSITIES[1], 1, DENSITIES, reach=Reach(">=", 0.75)),
    _linear("block16x1", Reach(">=", 4.0)),
    _linear("block16x1", Reach(">", 1.0), values="float16", against=OURS),
    _linear("gs16x1", Reach(">=", 2.0)),
    _linear("unstructured", Reach(">=", 2.0)),
    _linear("block16x1", Reach(">=", 2.5), batch=32),
    _level0(1.03, "float32"),
    *(
        Spec(RESNET50, "block4x1", density, 1, DENSITIES, isa="avx2", reach=Reach(">", 1.0))
        for density in reversed(DENSITIES)
    ),
    *_network("block4x1", 1, sparse=6.5, dense=4.0, values=INT8, against=DENSE_INT8),
    *_network("block4x1", 1, sparse=21.0, dense=13.0, values=INT8, against=DENSE),
    *_network("block4x1", 2, sparse=5.5, dense=3.5, values=INT8, against=DENSE_INT8),
    Spec(MOBILENETV2, "block4x1", DENSITIES[1], 1, DENSITIES, values=INT8, against=DENSE_INT8, reach=Reach(">=", 1.5)),
    _linear("block16x1", Reach(">=", 6.0), values=INT8, against=DENSE_INT8),
    _linear("block16x1", Reach(">=", 4.0), values=INT8, against=OURS),
    Spec(
        *(RESNET50, "block4x1", DENSITIES[1], 1, DENSITIES),
        isa="avx2",
        values=INT8,
        against=OURS,
        reach=Reach(">=", 1.0),
    ),
    *(
        Spec(kind, "block4x1", density, 1, DENSITIES, values=INT8, against=OURS, reach=Reach("<=", 0.4))
        for kind in (FILE_BYTES, RESIDENT_BYTES)
        for density in reversed(DENSITIES)
    ),
    _level0(1.05, INT8),
    *(
        Spec(RESNET50, pattern, density, 1, DENSITIES, values=INT8, against=DENSE_INT8)
        for pattern in ("block8x1", "block16x1", "unstructured", "gs16x1", "channel")
        for density in reversed(DENSITIES)
    ),
)


def peer_specs(pattern: str = "block4x1", levels: tuple[float, ...] = DENSITIES, threads: int = 1) -> list[Spec]:
    """A row for each peer at each level: the peers' float32 beside ours, their int8 beside our int8."""
    asked = {"deepsparse-int8": Reach(">=", 2.0)} if (pattern, levels, threads) == ("block4x1", DENSITIES, 1) else {}
    return [
        Spec("peer", pattern, density, threads, levels, peer=peer, values=values, reach=asked.get(peer))
        for values, peers in (("float32", PEERS), (INT8, INT8_PEERS))
        for peer in peers
        for density in reversed(levels)
    ]


def network_specs(pattern: str, levels: tuple[float, ...], values: str = "float32") -> list[Spec]:
    """ResNet-50 at levels a user named, with the reach of the table's row where it is the same work."""
    known = {spec.name: spec for spec in TABLE if spec.levels == levels}
    against = DENSE_INT8 if values == INT8 else DENSE
    own = [Spec(RESNET50, pattern, density, 1, levels, values=values, against=against) for density in reversed(levels)]
    return [known.get(spec.name, spec) for spec in own]


def rate_specs(pattern: str, levels: tuple[float, ...]) -> list[Spec]:
    """The rows of the arithmetic rate at every level, which `--layers` shows layer by layer."""
    known = {spec.name: spec for spec in TABLE if spec.levels == levels}
    own = [Spec("conv-rate", pattern, density, 1, levels) for density in reversed(levels)]
    return [known.get(spec.name, spec) for spec in own]


def chosen(
    names: Sequence[str],
    own: tuple[str, tuple[float, ...], str] | None,
    threads: int | None,
    *,
    peers: bool = False,
    layers: bool = False,
) -> list[Spec]:
    """The rows that the command's options select.

    names: patterns of rows' names, also of peers' rows; without any, the whole table. own: the user's pattern, levels
    and value type, for ResNet-50 rows in place of the table. threads: of all rows; None keeps each row's own. peers:
    whether the peers' rows are added; layers: whether the rows of the arithmetic rate are. Raises BenchError: a name
    matches no row.
    """
    pattern, levels, values = own or ("block4x1", DENSITIES, "float32")
    table = list(TABLE if own is None else network_specs(pattern, levels, values))
    if layers:
        table += [spec for spec in rate_specs(pattern, levels) if spec not in table]
    beside = at_threads(peer_specs(pattern, levels), threads)
    table = at_threads(table, threads)
    candidates = [*table, *beside]
    check_names(names, [spec.name for spec in candidates])
    picked = [spec for spec in candidates if is_picked(spec.name, names)] if names else table
    return [*picked, *(spec for spec in beside if peers and spec not in picked)]


def at_threads(specs: Sequence[Spec], threads: int | None) -> list[Spec]:
    """`specs` at `threads`. A reach holds for one number of threads: a row that is moved to another number loses it,
    unless `specs` has a row for that number.
    """
    if threads is None:
        return list(specs)
    present = {spec.name: spec for spec in specs if spec.threads == threads}
    moved = [replace(spec, threads=threads, reach=None) for spec in specs]
    return list({spec.name: present.get(spec.name, spec) for spec in moved}.values())


@dataclass(frozen=True, slots=True)
class Settings:
    """rounds: number of interleaved rounds; peers_folder: folder of the peers' environments."""

    rounds: int
    peers_folder: Path


Measure = Callable[[Sequence[Spec], Settings], list[Row]]


def measured(specs: Sequence[Spec], settings: Settings, measure: Measure) -> Iterator[Row]:
    """The rows in the order of `specs`. Rows of one setting are measured together; a failure affects only them."""
    done: dict[str, Row] = {}
    for spec in specs:
        if spec.name not in done:
            group = [each for each in specs if each.setting == spec.setting]
            _log.info("measuring %s", ", ".join(each.name for each in group))
            try:
                rows = measure(group, settings)
            except NestedSparseError as error:
                rows = [Row(each, unavailable=str(error)) for each in group]
            done.update({row.spec.name: row for row in rows})
        yield done[spec.name]
