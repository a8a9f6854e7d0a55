"""mark_export: the mark in an exported file that says whether its rows are independent, so that requests may join."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from nested_sparse.tensor_spec import TensorSpec, batch_is_free

LOGGER = logging.getLogger(__name__)


def mark_export(
    path: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], examples: Sequence[Tensor]
) -> None:
    """Find out by running the file at `path`, and write the mark into it; warn where requests cannot be joined.

    A model with a fixed batch gets no mark, because its requests cannot be joined. Raises CheckpointError, KernelError.
    """
    # as in verify_export: the exported file is tried on the runtime that will run it
    from nested_sparse.runtime import mark_rows

    if not batch_is_free((*inputs, *outputs)):
        return
    found = mark_rows(path, {spec.name: each.cpu().numpy() for spec, each in zip(inputs, examples, strict=True)})
    if not found.independent:
        LOGGER.warning(
            "%s: requests of different clients will not be batched, and metrics hold for the batches measured: %s",
            path.name,
            found.reason,
        )
