"""route_scores: what inferences score whose level falls while they run, as the operators run them."""

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

    batches: inputs of the model's one input and (n,) class indices, read once and kept; the first output holds logits,
        classes in dimension 1. Use data that the model was not tested on, or its stated accuracies mean less.
    cuts: names of layers; None: every one but the first, where it would be the lower level's own accuracy.
    The very operators run, in their order, each with the norm of the level it runs at. Raises InputError, and what the
    session's run does.
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
