"""Scores: the measured accuracy of inferences whose level falls while they run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpts
from nested_sparse.reroute import Reroute, checked_drop

from ..session import Array, Session
from .guard import RouteGuard
from .table import RouteTable


def route_scores(
    session: Session,
    batches: Iterable[tuple[Array, NDArray[np.int64]]],
    cuts: Sequence[str] | None = None,
    *,
    max_drop: float | None = None,
) -> tuple[Reroute, ...]:
    """Top-1 accuracy of every pair of levels, lowered at each of `cuts`; `store_reroutes` puts it into the file.

    batches: arrays for the model's one input, each with its (n,) class indices; read once and kept. The first output
        holds logits, with the classes in dimension 1. Use data that the model was not tested on: otherwise the
        accuracies that its file states mean less.
    cuts: names of the layers at which the level falls; None: all layers. The first layer, where a lowered inference is
        a whole run at the lower level, is always measured.
    max_drop: largest drop of accuracy against that whole run. A layer whose drop plus two standard errors is larger is
        left out (`Reroute.of_hits`): the level never falls there, and a run that would fall waits for the next layer.
        The more samples, the more layers stay: a drop of 0.01 needs 2000 or more. None keeps every layer.
    The session's own operators run, in their order, each with the norm of the level that it runs at. Raises InputError,
    and what the session's run raises.
    """
    samples = list(batches)
    if not samples or len(session.inputs) != 1:
        raise InputError(f"route_scores: expected one input and a batch or more, got {len(session.inputs)} inputs")
    max_drop = checked_drop(max_drop, InputError)
    table = RouteTable.measure(session, repeats=1)
    if not table.layers:
        raise InputError(f"route_scores: {session.name} runs no nested layer")
    first = table.layers[0]
    # a file names layers: the later uses of a layer ("fc.1") have no name of their own in it
    chosen = [name for name in table.layers if name.rpartition(".")[0] not in table.layers] if cuts is None else cuts
    if unknown := [cut for cut in chosen if cut not in table.layers]:
        raise InputError(f"cuts: no layers {excerpts(unknown)}; there are {excerpts(table.layers)}")
    guard = RouteGuard(table)
    name, output = session.inputs[0].name, session.outputs[0].name

    def hits(start: int, end: int, cut: str) -> NDArray[np.bool_]:
        right = []
        for inputs, classes in samples:
            guard.force(start, end, cut)
            logits = session.run({name: inputs}, start, guard=guard)[output]
            chosen = logits.argmax(axis=1)
            given = np.asarray(classes)
            if given.shape != chosen.shape or not np.issubdtype(given.dtype, np.integer):
                raise InputError(
                    f"route_scores: expected class indices {chosen.shape}, whole numbers, beside each array of inputs, "
                    f"got {given.dtype} {given.shape}"
                )
            right.append(chosen == given)
        return np.concatenate(right)

    return tuple(
        Reroute.of_hits(start, end, {cut: hits(start, end, cut) for cut in dict.fromkeys((first, *chosen))}, max_drop)
        for start in range(1, len(session.levels))
        for end in range(start)
    )
