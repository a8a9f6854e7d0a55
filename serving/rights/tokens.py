"""Tokens: the clients that a token file names, found by the token that a call brings."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from nested_sparse.errors import ServingError
from nested_sparse.excerpt import excerpt
from nested_sparse.regular_file import open_regular

from .right import Right

LEAST_CHARACTERS = 20
"""Of a token that the file states in clear. Shorter ones could be found by trying."""
MOST_FILE_BYTES = 1 << 20
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""
DIGEST_PREFIX = "sha256:"
EMPTY_DIGEST = hashlib.sha256().hexdigest()
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
log = logging.getLogger(__name__)
LINE = "expected `NAME RIGHT[,RIGHT] TOKEN`"


@dataclass(frozen=True, slots=True)
class Client:
    """A caller. name: of its token, else of its certificate, else its address. rights: all that it has."""

    name: str
    rights: frozenset[Right]


class Tokens:
    """Clients by token. It keeps no token, only a digest of each under a key that this process draws.

    With this key the place of a digest in the table tells nothing about a token, so the time of a search does not
    either. The digest that was found is compared in constant time.
    """

    def __init__(self, clients: dict[bytes, Client]) -> None:
        """clients: by the SHA-256 of each token."""
        self._key = secrets.token_bytes(32)
        self._clients = {self._place(digest): (digest, client) for digest, client in clients.items()}

    def __len__(self) -> int:
        return len(self._clients)

    def client(self, token: str) -> Client | None:
        """The client of `token`; None where no line of the file has it."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known, client = self._clients.get(self._place(digest), (b"", None))
        return client if hmac.compare_digest(known, digest) else None

    def _place(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._key, digest_size=32).digest()


def read_tokens(path: Path) -> Tokens:
    """The tokens of a file: one on each line, as `NAME RIGHT[,RIGHT] TOKEN`; `#` begins a comment.

    TOKEN is the token, or `sha256:` and its SHA-256 in hexadecimal digits, so that the file need not hold the token
    itself. A name may have several lines: during a rotation the old and the new token are both valid. Raises
    ServingError for a file that cannot be read, that everyone may write, or that has a wrong line. No message quotes
    a token.
    """
    try:
        with open_regular(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(MOST_FILE_BYTES + 1)
    except OSError as error:
        raise ServingError(f"token file {path}: {error.strerror or error}") from None
    if len(data) > MOST_FILE_BYTES:
        raise ServingError(f"token file {path}: expected at most {MOST_FILE_BYTES} bytes")
    if mode & stat.S_IWOTH:
        raise ServingError(f"token file {path}: everyone may write it, and so make tokens; run `chmod o-w {path}`")
    clients: dict[bytes, Client] = {}
    in_clear = False
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        fields = line.partition("#")[0].split()
        if fields:
            digest, client = _client(fields, f"token file {path}, line {number}")
            in_clear |= not fields[2].startswith(DIGEST_PREFIX)
            if digest in clients:
                raise ServingError(f"token file {path}, line {number}: an earlier line has the same token; remove one")
            clients[digest] = client
    if mode & stat.S_IROTH and in_clear:
        log.warning(
            "token file %s: everyone may read its tokens; run `chmod o-r %s`, or write their SHA-256", path, path
        )
    if not clients:
        raise ServingError(f"token file {path}: has no token; {LINE} on each line")
    return Tokens(clients)


def _client(fields: list[str], where: str) -> tuple[bytes, Client]:
    if len(fields) != 3:
        raise ServingError(f"{where}: {LINE}, got {len(fields)} words")
    name, rights, token = fields
    if not _NAME.fullmatch(name):
        raise ServingError(
            f"{where}: NAME: expected up to 64 letters, digits, and any of . _ @ -, got '{excerpt(name)}'"
        )
    return _digest(token, where), Client(name, frozenset(_right(text, where) for text in rights.split(",")))


def _right(text: str, where: str) -> Right:
    try:
        return Right(text)
    except ValueError:
        known = ", ".join(right.value for right in Right)
        raise ServingError(f"{where}: RIGHT: expected some of {known}, got '{excerpt(text)}'") from None


def _digest(token: str, where: str) -> bytes:
    if token.startswith(DIGEST_PREFIX):
        digits = token.removeprefix(DIGEST_PREFIX)
        if not _DIGEST.fullmatch(digits):
            raise ServingError(
                f"{where}: TOKEN: expected 64 hexadecimal digits, in small letters, after {DIGEST_PREFIX}"
            )
        if digits == EMPTY_DIGEST:
            raise ServingError(f"{where}: TOKEN: this is the SHA-256 of nothing; was the token's file misspelt?")
        return bytes.fromhex(digits)
    if len(token) < LEAST_CHARACTERS:
        raise ServingError(
            f"{where}: TOKEN: expected {LEAST_CHARACTERS} characters or more, got {len(token)}; "
            "`openssl rand -hex 32` makes one"
        )
    if not TOKEN.fullmatch(token):
        raise ServingError(f"{where}: TOKEN: expected letters, digits, and any of . _ ~ + / -, then any number of =")
    return hashlib.sha256(token.encode()).digest()
