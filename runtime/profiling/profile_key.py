"""profile_key: all that a latency profile depends on."""

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
    """All that a profile of `session` depends on, ready for JSON; a profile holds for every equal key.

    max_batch: the largest batch that the profile has. The key names the machine by a digest of its id, because systemd
    asks to keep the id itself confidential.
    """
    return {
        "checkpoint": session.digest,
        "isa": session.isa,
        "kernels": _library_digest(library.library_path()),
        "onnxruntime": ort.__version__,
        "nested_sparse": nested_sparse.__version__,
        "threads": session.threads,
        "spin": int(session.spin),
        "cpu": cpu_model(root),
        "usable_cores": usable_cores(root),
        "machine": hashlib.sha256(f"nested-sparse {_machine_id(root)}".encode()).hexdigest()[:16],
        "max_batch": max_batch,
    }


def choice_key(key: ProfileKey) -> ProfileKey:
    """The key of the choice of a number of threads, from the key of a profile with any number."""
    return {**key, "threads": 0, "max_batch": 0}


def _machine_id(root: Path) -> str:
    try:
        return (root / "etc/machine-id").read_text(encoding="ascii").strip() or platform.node()
    except (OSError, UnicodeError):
        return platform.node()


@functools.lru_cache(maxsize=4)
def _library_digest(path: Path | os.PathLike[str]) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
