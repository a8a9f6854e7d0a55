"""Address: the URL of a model on a file server, and the URLs that a redirect may lead to."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from nested_sparse.errors import FetchError, InputError
from nested_sparse.excerpt import excerpt

SCHEMES = ("https", "http")
SUFFIX = ".manifest"
"""The manifest of a file has the file's name with this at its end."""
MOST_CHARACTERS = 4096
PLAIN = re.compile(r"[\x21-\x7e]*")


class Address:
    """A URL of http or https. Raises InputError for a text that is none, or holds a user's name or password.

    name: of its model, which is the stem of the file that the URL's path ends with.
    shown, shown_manifest: its URL and the manifest's without their queries, which may hold a secret, for messages.
    """

    def __init__(self, url: str) -> None:
        try:
            self.parts = urlsplit(url)
            port = self.parts.port
        except ValueError as error:
            raise InputError(f"URL '{excerpt(url)}': {excerpt(error)}") from None
        if self.parts.scheme not in SCHEMES or not self.parts.hostname or port == 0 or len(url) > MOST_CHARACTERS:
            raise InputError(
                f"URL '{excerpt(url)}': expected one as https://example.com/models/model.safetensors, of at most "
                f"{MOST_CHARACTERS} characters"
            )
        if self.parts.username is not None or self.parts.password is not None:
            raise InputError(
                f"URL of {excerpt(self.parts.hostname)}: holds a name or a password, which others would see; put a "
                "token into a file (--fetch-token-file)"
            )
        self.shown = excerpt(self.parts._replace(query="", fragment="").geturl())
        self.shown_manifest = excerpt(self.manifest._replace(query="", fragment="").geturl())
        if not PLAIN.fullmatch(self.parts.path + self.parts.query):
            path = excerpt(quote(self.parts.path, safe="/%"))
            raise InputError(f"URL {self.shown}: holds a space, or characters beyond ASCII; write its path as {path}")
        if self.parts.path.endswith(SUFFIX):
            raise InputError(f"URL {self.shown}: is that of a manifest; name the file, without {SUFFIX} at its end")
        self.name = unquote(self.parts.path).rpartition("/")[2].removesuffix(".safetensors")
        if not self.name or self.name.startswith(".") or not self.name.isprintable() or len(self.name.encode()) > 200:
            raise InputError(f"URL {self.shown}: expected a file's name at its end; the model is named after it")

    @property
    def manifest(self) -> SplitResult:
        """The URL of the manifest, beside the file."""
        return self.parts._replace(path=self.parts.path + SUFFIX)


def is_url(text: str) -> bool:
    """Whether `text` is meant as a URL, which may be one that Address refuses, not as the path of a file."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def redirected(base: SplitResult, location: str) -> SplitResult:
    """The URL that an answer's Location leads to. Raises FetchError where it leads from https to another scheme."""
    try:
        target = urlsplit(urljoin(base.geturl(), location[:MOST_CHARACTERS]))
        usable = target.scheme in SCHEMES and bool(target.hostname) and (target.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise FetchError(f"{base.hostname}: is redirected to '{excerpt(location)}', which is no URL of http or https")
    if base.scheme == "https" and target.scheme != "https":
        raise FetchError(
            f"{base.hostname}: is redirected from https to {target.scheme}, where others could change what comes; "
            "name the https URL itself"
        )
    return target
