"""Source: a model and its manifest on a file server, read over HTTP without trust."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from urllib.parse import SplitResult

from nested_sparse import __version__
from nested_sparse.errors import FetchError, InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.regular_file import read_regular

from .address import Address, redirected
from .manifest import MOST_BYTES

MOST_REDIRECTS = 5
READ_NBYTES = 1 << 16
MOST_ETAG = 1024
MOST_TOKEN = 8192
CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
REDIRECTS = (301, 302, 303, 307, 308)
TOKEN = re.compile(r"[\x21-\x7e]+")


class Source:
    """Reads from one address. No more bytes are read than were asked for, whatever the server sends.

    ca: PEM file of the authorities that may have signed the certificate of https; None: those of the system.
    token_file: file of a bearer token, read at each request; it goes to the address's own host alone.
    timeout_s: longest wait for a connection, and for the next byte; a slow link is no error.
    nbytes: bytes of bodies that have come. Every read raises FetchError. Raises InputError for a CA file that is none.
    """

    def __init__(
        self, address: Address, ca: Path | None = None, token_file: Path | None = None, timeout_s: float = 30.0
    ) -> None:
        self._address = address
        self._token_file = token_file
        self._timeout_s = timeout_s
        self.nbytes = 0
        self.shown, self.shown_manifest = address.shown, address.shown_manifest
        self._ca = ca
        self._tls = None if ca is None and address.parts.scheme != "https" else self._context()

    def manifest(self, etag: str = "") -> tuple[bytes, str] | None:
        """The manifest's bytes and its ETag, "" where it has none; None where it still has the tag `etag`."""
        headers = {"If-None-Match": etag} if etag else {}
        with self._answer(self._address.manifest, headers) as answer:
            if answer.status == 304 and etag:
                return None
            if answer.status != 200:
                raise self._refused(answer, self._address.shown_manifest)
            raw = b"".join(self._read(answer, 0, MOST_BYTES + 1))
            tag = answer.getheader("ETag") or ""
            return raw, tag if len(tag) <= MOST_ETAG and tag.isprintable() else ""

    def stream(self, begin: int, end: int, nbytes: int) -> Iterator[bytes]:
        """Bytes `begin` to `end` of the file of `nbytes`, in pieces as they come.

        A server without ranges sends the file from its first byte; what comes before `begin` is dropped.
        """
        with self._answer(self._address.parts, {"Range": f"bytes={begin}-{end - 1}"}) as answer:
            if answer.status not in (200, 206):
                raise self._refused(answer, self.shown)
            dropped = begin if answer.status == 200 else 0
            if answer.status == 206:
                self._check_range(answer.getheader("Content-Range") or "", begin, nbytes)
            got = 0
            for data in self._read(answer, dropped, end - begin):
                got += len(data)
                yield data
            if got < end - begin:
                raise FetchError(f"{self.shown}: the connection ended {end - begin - got} bytes too early")

    def _read(self, answer: HTTPResponse, dropped: int, most: int) -> Iterator[bytes]:
        """At most `most` bytes of the body, after the first `dropped`."""
        while dropped > 0 and (data := answer.read1(min(READ_NBYTES, dropped))):
            dropped -= len(data)
            self.nbytes += len(data)
        while most > 0 and (data := answer.read1(min(READ_NBYTES, most))):
            most -= len(data)
            self.nbytes += len(data)
            yield data

    def _check_range(self, said: str, begin: int, nbytes: int) -> None:
        found = CONTENT_RANGE.fullmatch(said)
        if found is None or int(found[1]) != begin or (found[3] != "*" and int(found[3]) != nbytes):
            raise FetchError(
                f"{self.shown}: expected bytes from {begin} of {nbytes}, the server sends '{excerpt(said)}'; the file "
                "and its manifest do not belong together, or the server does not understand ranges"
            )

    @contextmanager
    def _answer(self, url: SplitResult, headers: Mapping[str, str]) -> Iterator[HTTPResponse]:
        """The answer to a GET, after redirects."""
        try:
            for _ in range(MOST_REDIRECTS + 1):
                connection = self._connection(url)
                try:
                    connection.request("GET", _target(url), headers={**headers, **self._headers(url)})
                    answer = connection.getresponse()
                    location = answer.getheader("Location")
                    if answer.status in REDIRECTS and location:
                        url = redirected(url, location)
                        continue
                    encoding = answer.getheader("Content-Encoding", "identity")
                    if encoding.lower() != "identity":
                        raise FetchError(
                            f"{self.shown}: came as '{excerpt(encoding)}', expected plain bytes; switch compression "
                            "off for this file"
                        )
                    yield answer
                    return
                finally:
                    connection.close()
        except (HTTPException, OSError, ValueError) as error:
            reason = excerpt(getattr(error, "strerror", None) or error) or type(error).__name__
            raise FetchError(f"{self.shown}: {reason}") from None
        raise FetchError(f"{self.shown}: is redirected more than {MOST_REDIRECTS} times")

    def _connection(self, url: SplitResult) -> HTTPConnection:
        assert url.hostname is not None
        if url.scheme == "https":
            self._tls = self._tls or self._context()
            return HTTPSConnection(url.hostname, url.port, timeout=self._timeout_s, context=self._tls)
        return HTTPConnection(url.hostname, url.port, timeout=self._timeout_s)

    def _context(self) -> ssl.SSLContext:
        """It takes 26 ms for the system's authorities, so it is made where https is spoken."""
        try:
            return ssl.create_default_context(cafile=None if self._ca is None else str(self._ca))
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise InputError(f"CA file {excerpt(self._ca)}: expected certificates in PEM ({excerpt(error)})") from None

    def _headers(self, url: SplitResult) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": f"nested-sparse/{__version__}"}
        home = self._address.parts
        if self._token_file is not None and (url.scheme, url.netloc) == (home.scheme, home.netloc):
            headers["Authorization"] = f"Bearer {read_token(self._token_file)}"
        return headers

    def _refused(self, answer: HTTPResponse, shown: str) -> FetchError:
        hint = ""
        if answer.status == 404 and shown == self._address.shown_manifest:
            hint = "; `nested-sparse publish FILE` writes the manifest, which belongs beside the file"
        return FetchError(f"{shown}: the file server answers {answer.status} {excerpt(answer.reason, 60)}{hint}")


def read_token(path: Path) -> str:
    """The token in the file. Raises FetchError, which does not repeat it."""
    try:
        token = read_regular(path, MOST_TOKEN).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise FetchError(f"token file {excerpt(path)}: cannot be read ({type(error).__name__})") from None
    if not TOKEN.fullmatch(token):
        raise FetchError(f"token file {excerpt(path)}: expected one token, without spaces, in ASCII")
    return token


def _target(url: SplitResult) -> str:
    return (url.path or "/") + (f"?{url.query}" if url.query else "")
