"""mark_export: the exported file says whether its rows are independent, hence whether a server may join requests."""

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
    """Find out from the file at `path`, run on what ships, and write it into it; log where requests cannot be joined.

    A model whose batch is fixed has nothing to join and gets no mark. Raises CheckpointError, KernelError.
    """
    # as verify_export: what ships is tried on what runs it
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
