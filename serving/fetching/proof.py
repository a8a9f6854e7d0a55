"""Proof: the evidence beside a fetched model that its maker published it, and that it computes what they said."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError, FetchError
from nested_sparse.excerpt import excerpt
from nested_sparse.header import read_header
from nested_sparse.metadata import DIGEST_KEY, Metadata
from nested_sparse.regular_file import read_regular
from nested_sparse.runtime.session import Session
from nested_sparse.slice import cut
from nested_sparse.writer import header_bytes, write_file

from ..signature import PublicKey
from .manifest import HEADER_FILE, MANIFEST_FILE, MOST_BYTES, Manifest, read_manifest
from .self_check_run import run_self_check


@dataclass(frozen=True, slots=True)
class Proof:
    """The manifest of a file and the file's metadata, which belong together. header: the file up to its data."""

    manifest: Manifest
    metadata: Metadata
    header: bytes

    @staticmethod
    def of(manifest: Manifest, header: bytes, where: str) -> Proof:
        """The proof. Raises CheckpointError where the header is not the manifest's, or says something else."""
        piece = manifest.pieces[0]
        if len(header) != piece.nbytes or hashlib.sha256(header).hexdigest() != piece.sha256:
            raise CheckpointError(f"{where}: the header is not the one of the manifest")
        metadata, begin, sections, _ = read_header(io.BytesIO(header), where, manifest.nbytes)
        digests = [metadata.graph_sha256, *(level.sha256 for level in metadata.levels)]
        ends = [begin, *(begin + section[-1].end for section in sections)]
        if digests != [each.sha256 for each in manifest.pieces[1:]] or ends != list(manifest.begins[1:]):
            raise CheckpointError(f"{where}: the header and the manifest name other levels; publish the file again")
        return Proof(manifest, metadata, header)

    @staticmethod
    def read(folder: Path, key: PublicKey | None = None) -> Proof:
        """The proof that lies in `folder`. Raises CheckpointError, also where the key's owner has not signed it."""
        where = excerpt(folder)
        try:
            manifest = read_manifest(read_regular(folder / MANIFEST_FILE, MOST_BYTES), where, key)
            header = read_regular(folder / HEADER_FILE, manifest.pieces[0].nbytes)
        except (OSError, FetchError) as error:
            raise CheckpointError(f"{where}: its manifest or header cannot be used: {excerpt(error)}") from None
        return Proof.of(manifest, header, where)

    def digest(self, level_count: int) -> str:
        """The digest of the metadata that a file with so many of the levels has."""
        return cut(self.metadata, level_count).to_header()[DIGEST_KEY]

    def level_count(self, nbytes: int) -> int:
        """The number of levels of the file, or of the slice, that has so many bytes. Raises CheckpointError."""
        counts = range(1, self.manifest.level_count + 1)
        found = next((count for count in counts if self.slice_nbytes(count) == nbytes), None)
        if found is None:
            raise CheckpointError(f"expected a slice of {self.manifest.nbytes} bytes, got {nbytes} bytes")
        return found

    def slice_nbytes(self, level_count: int) -> int:
        """Bytes of a file with so many of the levels."""
        if level_count == self.manifest.level_count:
            return self.manifest.nbytes
        data_nbytes = self.manifest.prefix_nbytes(level_count) - self.manifest.begins[1]
        return len(header_bytes(cut(self.metadata, level_count))) + data_nbytes

    def write_slice(self, path: Path, level_count: int, data: Iterable[bytes]) -> None:
        """Write a file of the first levels, not of all. data: its bytes behind the header. Raises CheckpointError."""
        write_file(path, header_bytes(cut(self.metadata, level_count)), data, force=False)


@dataclass(frozen=True, slots=True)
class Trust:
    """The checks of each model before it serves, for a Loader: of a fetched one those here, of others `check_other`.

    root: folder below which the fetched ones lie.
    key: its owner must have signed their manifests; None: a signature is not asked for.
    """

    root: Path
    key: PublicKey | None = None
    check_other: Callable[[Checkpoint], None] | None = None

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise CheckpointError unless the checkpoint, whose digests are checked, is what was published, or a slice."""
        if not self._is_fetched(checkpoint.path):
            if self.check_other is not None:
                self.check_other(checkpoint)
            return
        proof = Proof.read(checkpoint.path.parent, self.key)
        level_count = len(checkpoint.levels)
        if level_count > proof.manifest.level_count or checkpoint.seal.digest != proof.digest(level_count):
            raise CheckpointError(f"{excerpt(checkpoint.path)}: is not the file of the manifest beside it")

    def accept(self, session: Session) -> None:
        """Raise CheckpointError where a fetched model computes something else here than its publisher states."""
        if self._is_fetched(session.path):
            run_self_check(Proof.read(session.path.parent, self.key).manifest.self_check, session)

    def _is_fetched(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())
