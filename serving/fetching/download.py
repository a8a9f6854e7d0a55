"""download(): fetches the pieces of a file that are not there yet, or copies them from files at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from .model_store import Span
from .partial import Partial, WrongBytesError


class ByteSource(Protocol):
    """A file server's file, as Source reads it."""

    def stream(self, begin: int, end: int, nbytes: int) -> Iterable[bytes]: ...  # noqa: D102


def download(partial: Partial, source: ByteSource, at_hand: Mapping[str, Span], came: Callable[[], None]) -> None:
    """Complete `partial`: each run of pieces that no file at hand has takes one request.

    came: called after each read; it may raise to end the download. Raises FetchError (the server), WrongBytesError
    (a piece that does not have its digest; it is dropped), OSError (the disk). The bytes that came until then stay.
    """
    spans = dict(at_hand)
    pieces, begins = partial.manifest.pieces, partial.manifest.begins
    while not partial.complete:
        came()
        here = spans.pop(pieces[partial.verified].sha256, None)
        if here is not None:
            _copy(partial, here)
            continue
        end = partial.verified
        while end < len(pieces) and pieces[end].sha256 not in spans:
            end += 1
        for data in source.stream(partial.nbytes, begins[end], partial.manifest.nbytes):
            partial.append(data)
            came()


def _copy(partial: Partial, span: Span) -> None:
    """Take the piece from a file at hand. Where that is damaged, the piece is fetched in the next turn."""
    partial.drop_piece()
    wanted = partial.verified
    try:
        for data in span.read():
            partial.append(data)
    except WrongBytesError:
        return
    except FileNotFoundError:
        pass
    if partial.verified == wanted:
        partial.drop_piece()
