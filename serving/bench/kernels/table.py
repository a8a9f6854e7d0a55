"""The table: every row with its reach, which of them a command asks for, and how each is measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from nested_sparse.errors import BenchError, NestedSparseError

from ..reach import Reach
from .row import Row, Spec

DENSITIES = (0.0538, 0.1338)
FIVE_DENSITIES = (0.0538, 0.1338, 0.25, 0.5, 0.9)
QUARTER = (0.25,)
PEERS = ("deepsparse", "mnn", "openvino", "onnxruntime-int8")
LINEAR_ROUNDS = 8
"""Times the rounds of the other rows: a round of linear layers takes milliseconds."""

_log = logging.getLogger(__name__)


def _network(pattern: str, threads: int, sparse: float, dense: float) -> list[Spec]:
    """Both densities of ResNet-50; `sparse` and `dense` are the times dense float32 they are to reach."""
    return [
        Spec("resnet50", pattern, density, threads, DENSITIES, reach=Reach(">=", bound))
        for density, bound in zip(reversed(DENSITIES), (dense, sparse), strict=True)
    ]


def _linear(pattern: str, bound: float, batch: int = 1) -> Spec:
    return Spec("linear", pattern, QUARTER[0], 1, QUARTER, batch=batch, reach=Reach(">=", bound))


TABLE: tuple[Spec, ...] = (
    *_network("block4x1", 1, sparse=8.0, dense=5.0),
    *_network("block4x1", 2, sparse=7.0, dense=4.5),
    *_network("unstructured", 1, sparse=4.0, dense=2.5),
    Spec("conv-rate", "block4x1", DENSITIES[1], 1, DENSITIES, reach=Reach(">=", 0.75)),
    _linear("block16x1", 4.0),
    Spec("linear", "block16x1", QUARTER[0], 1, QUARTER, values="float16", reach=Reach(">", 1.0)),  # than float32
    _linear("gs16x1", 2.0),
    _linear("unstructured", 2.0),
    _linear("block16x1", 2.5, batch=32),
    Spec("level0", "block4x1", FIVE_DENSITIES[0], 1, FIVE_DENSITIES, reach=Reach("<=", 1.03)),
    *(
        Spec("resnet50", "block4x1", density, 1, DENSITIES, isa="avx2", reach=Reach(">", 1.0))
        for density in reversed(DENSITIES)
    ),
)


def peer_specs(pattern: str = "block4x1", levels: tuple[float, ...] = DENSITIES, threads: int = 1) -> list[Spec]:
    """A row for each peer at each level."""
    return [
        Spec("peer", pattern, density, threads, levels, peer=peer) for peer in PEERS for density in reversed(levels)
    ]


def network_specs(pattern: str, levels: tuple[float, ...]) -> list[Spec]:
    """ResNet-50 at levels a user named, with the reach of the table's row where it is the same work."""
    known = {spec.name: spec for spec in TABLE if spec.levels == levels}
    own = [Spec("resnet50", pattern, density, 1, levels) for density in reversed(levels)]
    return [known.get(spec.name, spec) for spec in own]


def rate_specs(pattern: str, levels: tuple[float, ...]) -> list[Spec]:
    """The arithmetic rate at every level: what `--layers` shows layer by layer."""
    known = {spec.name: spec for spec in TABLE if spec.levels == levels}
    own = [Spec("conv-rate", pattern, density, 1, levels) for density in reversed(levels)]
    return [known.get(spec.name, spec) for spec in own]


def chosen(
    names: Sequence[str],
    own: tuple[str, tuple[float, ...]] | None,
    threads: int | None,
    *,
    peers: bool = False,
    layers: bool = False,
) -> list[Spec]:
    """The rows that the command's options ask for.

    names: patterns of rows' names, peers' included; none is the whole table. own: a pattern and levels of a user's, for
    ResNet-50 rows in place of the table. threads: for all rows; None is each row's own. Raises BenchError for a name
    that matches nothing.
    """
    pattern, levels = own or ("block4x1", DENSITIES)
    table = list(TABLE if own is None else network_specs(pattern, levels))
    if layers:
        table += [spec for spec in rate_specs(pattern, levels) if spec not in table]
    beside = at_threads(peer_specs(pattern, levels), threads)
    table = at_threads(table, threads)
    candidates = [*table, *beside]
    for name in names:
        if not any(fnmatchcase(spec.name, name) for spec in candidates):
            raise BenchError(f"no row is called {name!r}; there are: {', '.join(spec.name for spec in candidates)}")
    picked = [spec for spec in candidates if any(fnmatchcase(spec.name, name) for name in names)] if names else table
    return [*picked, *(spec for spec in beside if peers and spec not in picked)]


def at_threads(specs: Sequence[Spec], threads: int | None) -> list[Spec]:
    """`specs` at `threads`; a reach is for its own count, so a row moved to another has none, but the table's."""
    if threads is None:
        return list(specs)
    present = {spec.name: spec for spec in specs if spec.threads == threads}
    moved = [replace(spec, threads=threads, reach=None) for spec in specs]
    return list({spec.name: present.get(spec.name, spec) for spec in moved}.values())


@dataclass(frozen=True, slots=True)
class Settings:
    """rounds: of the interleaved runs; peers_folder: where the peers' environments are kept."""

    rounds: int
    peers_folder: Path


Measure = Callable[[Sequence[Spec], Settings], list[Row]]


def measured(specs: Sequence[Spec], settings: Settings, measure: Measure) -> Iterator[Row]:
    """Rows in the order of `specs`; those of one setting are measured together, and a failure is theirs alone."""
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
