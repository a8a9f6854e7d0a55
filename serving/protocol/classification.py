"""Classification: the largest values of an output and their places, as texts, in place of the output."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXTS = "BYTES"
"""The protocol's name for texts. No input of a checkpoint's graph, and no output, is one; classes are."""


def classified(values: NDArray[np.generic], count: int, batched: bool) -> NDArray[np.object_]:
    """The `count` largest of `values`, or all where there are fewer, as texts "value:index", the largest first.

    batched: for each row of the first dimension apart: (N, …) becomes (N, count), and anything else (count,). Indices
    are those of the flat row. Of equal values the first comes first; NaN counts as the lowest. Fractions have six
    decimals, as Triton writes them.
    """
    rows = values.reshape(len(values), -1) if batched else values.reshape(1, -1)
    order = _largest_first(rows)[:, :count]
    chosen = np.take_along_axis(rows, order, axis=1)
    texts = np.empty(order.shape, object)
    for place, (value, index) in enumerate(zip(chosen.ravel().tolist(), order.ravel().tolist(), strict=True)):
        number = f"{value:f}" if isinstance(value, float) else f"{value:d}"
        texts.flat[place] = f"{number}:{index}".encode()
    return texts if batched else texts[0]


def _largest_first(rows: NDArray[np.generic]) -> NDArray[np.intp]:
    keys = np.nan_to_num(rows, nan=-np.inf, posinf=np.inf, neginf=-np.inf) if rows.dtype.kind == "f" else rows
    backwards = np.argsort(keys[:, ::-1], axis=1, kind="stable")[:, ::-1]
    forwards: NDArray[np.intp] = rows.shape[1] - 1 - backwards
    return forwards


def raw_texts(texts: NDArray[Any]) -> bytes:
    """Texts as the protocol has them raw: the length of each in four bytes, little-endian, then its bytes."""
    parts: list[bytes] = []
    for text in texts.ravel():
        parts += (len(text).to_bytes(4, "little"), text)
    return b"".join(parts)
