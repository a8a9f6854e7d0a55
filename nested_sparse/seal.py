"""Seal: the digest that stands for all of a checkpoint, and the signature of it that the file may hold."""

from __future__ import annotations

from dataclasses import dataclass

SIGNATURE_KEY = "nested_sparse_signature"
"""Entry of the safetensors `__metadata__`."""
CONTEXT = "nested-sparse checkpoint"


@dataclass(frozen=True, slots=True)
class Seal:
    """The proof of a file's origin, which the owner of a key has made.

    digest: SHA-256 of the metadata, in hexadecimal digits. The metadata has the digests of the graph and of each
        segment, and says where each tensor is, so this one stands for all that is used of the file.
    signature: of `message`, in base64; "" where the file is not signed.
    others: names of entries beside ours in the same place, which the digest does not stand for.
    """

    digest: str
    signature: str = ""
    others: tuple[str, ...] = ()

    @property
    def message(self) -> bytes:
        """The bytes that are signed: `nested-sparse checkpoint`, a line feed, the digest."""
        return f"{CONTEXT}\n{self.digest}".encode("ascii", "replace")
