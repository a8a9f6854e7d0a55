"""State: a training run on disk. It is written completely or not at all, and refused when damaged or foreign."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from nested_sparse.argument import file_path, shown
from nested_sparse.errors import TrainingError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.regular_file import open_regular
from nested_sparse.whole_file import write_whole

MAGIC = b"nested-sparse training state 1\n"
DIGEST_NBYTES = 32


class StateError(TrainingError):
    """A state file that a run cannot continue from.

    trouble: description of the problem. own: whether a training run wrote the file.
    """

    def __init__(self, trouble: str, own: bool) -> None:
        self.trouble, self.own = trouble, own
        super().__init__(f"{trouble}; {'delete it to start anew, or ' if own else ''}choose another state_path")


def checked_path(state_path: object) -> Path:
    """`state_path` as the path of a file that exists or can be made. Raises InputError, StateError."""
    path = file_path("state_path", state_path)
    if not path.name or path.is_dir():
        raise StateError(f"state_path {shown(state_path)}: expected the path of a file, got a folder", own=False)
    if not path.parent.is_dir():
        raise StateError(f"state_path {shown(state_path)}: there is no folder {excerpt(path.parent)}", own=False)
    return path


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values, completely or not at all. Raises TrainingError: the file cannot be written."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getvalue()
    try:
        write_whole(path, MAGIC + hashlib.sha256(payload).digest() + payload)
    except OSError as error:
        raise TrainingError(
            f"{path}: the training state cannot be written ({error.strerror}); make room on the disk and start again: "
            "the run continues after the last saved epoch; or choose another state_path"
        ) from None


def load_state(path: Path) -> dict[str, Any]:
    """Read a file of `save_state`, on the CPU, without running code from the file. Raises StateError."""
    try:
        with open_regular(path) as file:
            content = file.read()
    except OSError as error:
        raise StateError(f"{path}: cannot be read ({error.strerror or error})", own=False) from None
    if not content.startswith(MAGIC):
        raise StateError(f"{path}: is not a training state of this version", own=False)
    digest, payload = content[len(MAGIC) :][:DIGEST_NBYTES], content[len(MAGIC) + DIGEST_NBYTES :]
    if hashlib.sha256(payload).digest() != digest:
        raise StateError(f"{path}: is damaged or cut off ({len(content)} bytes, its digest does not match)", own=True)
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


def check_same_run(path: Path, expected: Mapping[str, str], got: Mapping[str, str]) -> None:
    """Raise StateError, with each difference, when this run's fingerprint (`expected`) is not the file's (`got`)."""
    differing = [key for key in {**expected, **got} if expected.get(key) != got.get(key)]
    if differing:
        key = differing[0]
        raise StateError(
            f"{path}: belongs to another run; {excerpts(differing)} differ ('{excerpt(key)}': expected "
            f"{excerpt(expected.get(key))}, got {excerpt(got.get(key))})",
            own=True,
        )


def random_state() -> dict[str, Any]:
    """States of torch's, numpy's and Python's global generators, as tensors and plain values."""
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    version, words, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *map(float, rest)),
        "python": (version, list(words), gauss_next),
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set the generators to the states that `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), int(position), int(has_gauss), gauss))
    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(words), gauss_next))
