"""profile_key: what a latency profile holds for."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime as ort

import nested_sparse
from nested_sparse.kernels import library

from ..resources import ROOT, cpu_model, usable_cores

if TYPE_CHECKING:
    from ..session import Session

ProfileKey = dict[str, str | int]


def profile_key(session: Session, max_batch: int, root: Path = ROOT) -> ProfileKey:
    """All that a profile of `session` up to `max_batch` depends on; equal keys, same profile. Ready for JSON.

    The machine is told by a digest of its id: systemd asks that the id itself be kept confidential.
    """
    return {
        "checkpoint": session.digest,
        "isa": session.isa,
        "kernels": _library_digest(library.library_path()),
        "onnxruntime": ort.__version__,
        "nested_sparse": nested_sparse.__version__,
        "threads": session.threads,
        "cpu": cpu_model(root),
        "usable_cores": usable_cores(root),
        "machine": hashlib.sha256(f"nested-sparse {_machine_id(root)}".encode()).hexdigest()[:16],
        "max_batch": max_batch,
    }


def _machine_id(root: Path) -> str:
    try:
        return (root / "etc/machine-id").read_text(encoding="ascii").strip() or platform.node()
    except (OSError, UnicodeError):
        return platform.node()


@functools.lru_cache(maxsize=4)
def _library_digest(path: Path | os.PathLike[str]) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
