"""Scores: the measured accuracy of inferences whose level falls while they run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpts
from nested_sparse.reroute import Reroute

from ..session import Array, Session
from .guard import RouteGuard
from .table import RouteTable


def route_scores(
    session: Session,
    batches: Iterable[tuple[Array, NDArray[np.int64]]],
    cuts: Sequence[str] | None = None,
) -> tuple[Reroute, ...]:
    """Top-1 accuracy of every pair of levels, lowered at each of `cuts`; `store_reroutes` puts it into the file.

    batches: arrays for the model's one input, each with its (n,) class indices; read once and kept. The first output
        holds logits, with the classes in dimension 1. Use data that the model was not tested on: otherwise the
        accuracies that its file states mean less.
    cuts: names of the layers at which the level falls; None: all layers but the first, where a lowered inference is a
        whole run at the lower level.
    The session's own operators run, in their order, each with the norm of the level that it runs at. Raises InputError,
    and what the session's run raises.
    """
    samples = list(batches)
    if not samples or len(session.inputs) != 1:
        raise InputError(f"route_scores: expected one input and a batch or more, got {len(session.inputs)} inputs")
    table = RouteTable.measure(session, repeats=1)
    chosen = table.layers[1:] if cuts is None else tuple(cuts)
    if unknown := [cut for cut in chosen if cut not in table.layers]:
        raise InputError(f"cuts: no layers {excerpts(unknown)}; there are {excerpts(table.layers)}")
    guard = RouteGuard(table)
    name, output = session.inputs[0].name, session.outputs[0].name

    def accuracy(start: int, end: int, cut: str) -> float:
        hits = 0
        for inputs, classes in samples:
            guard.force(start, end, cut)
            logits = session.run({name: inputs}, start, guard=guard)[output]
            hits += int((logits.argmax(axis=1) == classes).sum())
        return hits / sum(len(classes) for _, classes in samples)

    return tuple(
        Reroute(start, end, {cut: accuracy(start, end, cut) for cut in chosen})
        for start in range(1, len(session.levels))
        for end in range(start)
    )
