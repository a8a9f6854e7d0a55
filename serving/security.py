"""Security: the TLS and the rights of one server, kept up to date with their files."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nested_sparse.errors import ServingError

from .rights.rights import Rights
from .rights.tokens import read_tokens
from .rotation import Rotation
from .tls.certificates import CertificateFiles
from .tls.exposure import check_exposure, is_local
from .tls.tls import Tls

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SecurityConfig:
    """Files of a server's security; they are read again when they change. Raises ServingError.

    tls_cert, tls_key: of its certificate chain and key, in PEM; None: no TLS.
    client_ca: of the certificates that sign those of clients, in PEM; None: clients need none.
    token_file: of the tokens of clients (rights/tokens.py); None: no call needs a token.
    insecure: listen on an address that other machines reach even without TLS.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    client_ca: Path | None = None
    token_file: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            missing, given = ("--tls-key", "--tls-cert") if self.tls_key is None else ("--tls-cert", "--tls-key")
            raise ServingError(f"{given} needs {missing} beside it: TLS takes a certificate and its key")
        if self.client_ca is not None and self.tls_cert is None:
            raise ServingError("--client-ca needs --tls-cert and --tls-key: clients show certificates over TLS only")


class Security:
    """Reads the files at once, and raises ServingError for those that cannot be used, and for an exposed `host`.

    tls: None without TLS. rights: ask it whether a call may be made. rotations: whoever runs the server watches them.
    """

    def __init__(self, config: SecurityConfig, host: str) -> None:
        check_exposure(host, config.tls_cert is not None, config.insecure)
        self.tls: Tls | None = None
        self.rotations: list[Rotation[Any]] = []
        if config.tls_cert is not None and config.tls_key is not None:
            self.tls = Tls(CertificateFiles(config.tls_cert, config.tls_key, config.client_ca))
            self.rotations.append(self.tls.rotation)
        self.rights = Rights(local=is_local(host))
        if config.token_file is not None:
            tokens = Rotation("the token file", [config.token_file], partial(read_tokens, config.token_file))
            self.rotations.append(tokens)
            self.rights = Rights(lambda: tokens.value)
            if self.tls is None and not is_local(host):
                log.warning("tokens travel in clear: who sees them can use them; give --tls-cert and --tls-key")
        elif not is_local(host):
            log.warning("everyone who reaches %s may infer and read; give --token-file to tell clients apart", host)
