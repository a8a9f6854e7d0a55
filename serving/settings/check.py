"""Check: the models and addresses that settings would serve, and every mistake in them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nested_sparse.errors import NestedSparseError, ServingError
from nested_sparse.excerpt import excerpt
from nested_sparse.level import resolve_level
from nested_sparse.options import unknown
from nested_sparse.runtime.policy import DEFAULT_POLICY
from nested_sparse.runtime.session import Session

from ..connections.listening import address_text, check_listenable
from ..connections.unix_socket import UnixSocket
from ..fetching.address import Address
from ..fetching.fetched_folder import FetchedFolder
from ..fetching.proof import Trust
from ..fetching.source import Source, read_token
from ..load import check_types, file_problems, state_of
from ..repository.folder import ModelFolder
from ..repository.names import MODEL_FILE
from ..repository.version_policy import VersionPolicy
from ..rights.tokens import read_tokens
from ..served_model import VERSION
from ..signature import PublicKey
from ..tls.certificates import CertificateFiles, read_certificates
from ..tls.exposure import check_exposure
from .fetched import fetched_folder
from .parts import model_config, server_config, signature_check
from .settings import OWN, Settings


@dataclass
class Findings:
    """The facts that were found, ready for JSON.

    addresses: of gRPC, the metrics and HTTP. security: `tls` ("server", or "mutual" where clients show certificates
    too), `certificate_ends`, and `tokens`, their number; what is off is left out. models: the facts of each one that
    can be served. problems: a line for each mistake. warnings: a line for all else that is likely not meant.
    """

    addresses: dict[str, str] = field(default_factory=dict)
    security: dict[str, Any] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

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
    for name, path in (("unix socket", address.unix_socket), ("HTTP unix socket", address.http_unix_socket)):
        if path is not None:
            found.addresses[name] = str(path)
            with found.noted():
                UnixSocket(path).check()
    _look_at_security(settings, found)
    for name, port in (("gRPC", address.port), ("metrics", address.metrics_port), ("HTTP", address.http_port)):
        if port is not None:
            found.addresses[name] = address_text(address.host, port)
    found.problems += map(str, file_problems(settings.models.files))
    for path in dict.fromkeys(settings.models.files):
        if path.is_file():  # else it is a problem already
            with found.noted(path.name):
                found.models.append(_model(path, path.stem, VERSION, settings))
    with found.noted():
        _look_at_fetched(settings, found)
    if settings.models.model_dir is not None:
        with found.noted():
            _look_into(settings.models.model_dir, settings, found)
    return found


def _look_at_security(settings: Settings, found: Findings) -> None:
    """Read the certificates and the tokens, as Security does; one that fails hides no other."""
    security = settings.security
    with found.noted():
        check_exposure(settings.address.host, security.tls_cert is not None, security.insecure)
    if security.tls_cert is not None and security.tls_key is not None:
        with found.noted():
            read = read_certificates(CertificateFiles(security.tls_cert, security.tls_key, security.client_ca))
            found.security["tls"] = "server" if read.client_ca is None else "mutual"
            if read.end_s is None:  # a server starts all the same; the log says why
                found.warnings.append(f"[security] tls_cert: {security.tls_cert}: clients would refuse it now")
            else:
                found.security["certificate_ends"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(read.end_s))
    if security.token_file is not None:
        with found.noted():
            found.security["tokens"] = len(read_tokens(security.token_file))


def _look_at_fetched(settings: Settings, found: Findings) -> None:
    """Open what earlier runs have fetched, and the files that fetching needs. Nothing is fetched."""
    fetching, key = settings.fetching, settings.security.check_signature
    if not fetching.urls:
        return
    root = fetching.fetch_dir or fetched_folder()
    trust = Trust(root, None if key is None else PublicKey(key))
    for address in map(Address, fetching.urls):
        with found.noted(address.shown):
            _check_writable(root / address.name)
            Source(address, fetching.fetch_ca, fetching.fetch_token_file)
            if fetching.fetch_token_file is not None:
                read_token(fetching.fetch_token_file)
            if not (root / address.name).is_dir() or not (folder := FetchedFolder(root, [address.name])).names():
                found.warnings.append(f"{address.shown}: nothing of it is here yet; serving fetches it")
                continue
            version = folder.versions(address.name)[-1]
            path = folder.checkpoint(address.name, version)
            found.models.append(_model(path, address.name, str(version), settings, trust))


def _check_writable(folder: Path) -> None:
    """Raise ServingError where the folder of a fetched model cannot be written to, or not be made. Nothing is made."""
    there = folder
    while not there.exists():
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "no right to write there" if there.is_dir() else "not a folder"
        raise ServingError(f"{excerpt(folder)}: cannot be used ({there}: {reason}); name another (--fetch-dir)")


def _look_into(model_dir: Path, settings: Settings, found: Findings) -> None:
    """Find the models of a directory and their versions."""
    folder, policy = ModelFolder(model_dir), VersionPolicy.read(settings.models.version_policy)
    names = folder.names()
    if not names and not settings.models.files:
        found.problems.append(f"{excerpt(model_dir)}: there is no model in it, as MODEL/1/{MODEL_FILE}")
    taken = {path.stem for path in settings.models.files}
    for own in settings.model:
        if own not in {*names, *taken}:  # a model may come later, so this is no mistake
            found.warnings.append(f"[{OWN}.{excerpt(own)}]: {unknown(own, sorted({*names, *taken}))}, the models now")
    for name in names:
        if name in taken:
            found.problems.append(f"{excerpt(name)}: is in the model directory and is also a FILE; rename one of them")
        with found.noted(name):
            for version in folder.chosen(name, policy):
                with found.noted(f"{name}/{version}"):
                    path = folder.checkpoint(name, version)
                    found.models.append(_model(path, name, str(version), settings))


def _model(path: Path, name: str, version: str, settings: Settings, trust: Trust | None = None) -> dict[str, Any]:
    """The facts of one model, ready for JSON. trust: of a fetched one. Raises as serving it would."""
    own = settings.of_model(name)
    config = model_config(own)
    check = signature_check(settings.security) if trust is None else trust.check
    with Session(path, threads=own.threads, check=check) as session:
        if trust is not None:
            trust.accept(session)
        check_types(session)
        state_of(session, config)
        levels = len(session.levels)
        if own.level is not None:
            resolve_level(own.level, levels)
    return {
        "name": name,
        "version": version,
        "file": str(path),
        "levels": levels,
        "slo_ms": own.slo_ms,
        "priority": own.priority,
        "level": own.level,
        "policy": (own.policy or DEFAULT_POLICY) if own.level is None else None,
        "threads": own.threads,
    }
