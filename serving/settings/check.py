"""Check: the models and addresses that settings would serve, and every mistake in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nested_sparse.errors import NestedSparseError
from nested_sparse.excerpt import excerpt
from nested_sparse.level import resolve_level
from nested_sparse.runtime.policy import DEFAULT_POLICY
from nested_sparse.runtime.session import Session

from ..connections.listening import address_text, check_listenable
from ..load import check_types, file_problems
from .parts import server_config
from .settings import Settings


@dataclass
class Findings:
    """addresses: by what listens there. models: the facts of each one that can be served. problems: a line each."""

    addresses: dict[str, str] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @contextmanager
    def noted(self, name: str = "") -> Iterator[None]:
        """Make an error of the body a problem. name: of the file that it is about; most texts say so themselves."""
        try:
            yield
        except (NestedSparseError, OSError) as error:
            text = str(error)
            self.problems.append(text if name in text else f"{excerpt(name)}: {text}")


def checked(settings: Settings) -> Findings:
    """Open what the settings name, as serving would. A port that is in use is no problem: this server may use it."""
    found = Findings()
    address = settings.address
    with found.noted():
        server_config(settings)
    with found.noted():
        check_listenable(address.host, 0)
    for name, port in (("gRPC", address.port), ("metrics", address.metrics_port), ("HTTP", address.http_port)):
        if port is not None:
            found.addresses[name] = address_text(address.host, port)
    found.problems += map(str, file_problems(settings.models.files))
    for path in dict.fromkeys(settings.models.files):
        if path.is_file():  # else it is a problem already
            with found.noted(path.name):
                found.models.append(_model(path, settings))
    return found


def _model(path: Path, settings: Settings) -> dict[str, Any]:
    """The facts of one model, ready for JSON. Raises what serving it would."""
    own = settings.of_model(path.stem)
    with Session(path, threads=own.threads) as session:
        check_types(session)
        levels = len(session.levels)
        if own.level is not None:
            resolve_level(own.level, levels)
    return {
        "name": path.stem,
        "file": str(path),
        "levels": levels,
        "slo_ms": own.slo_ms,
        "priority": own.priority,
        "level": own.level,
        "policy": (own.policy or DEFAULT_POLICY) if own.level is None else None,
        "threads": own.threads,
    }
