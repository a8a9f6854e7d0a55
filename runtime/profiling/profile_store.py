"""ProfileStore: latency profiles, and other facts of a model on this device, that are kept between starts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import tempfile
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.regular_file import open_regular

from .profile import LatencyProfile
from .profile_key import ProfileKey, profile_key

if TYPE_CHECKING:
    from ..session import Session

FORMAT_VERSION = 1
MOST_BYTES = 1 << 20
MOST_FILES = 256
OURS = re.compile(r"[0-9a-f]{32}\.json|\.[0-9a-f]{32}-\w+")
"""Names of the files of the store, and of the files that a killed writer leaves."""
HISTORY = 3
"""Number of measurements that are kept for a key. The shortest time of a case among them counts, as any disturbance
makes a measurement longer. So a device that has become slower for good is noticed after as many starts."""

log = logging.getLogger(__name__)


def default_folder() -> Path | None:
    """The default folder of profiles: under $XDG_CACHE_HOME, or ~/.cache; None for a user without a home folder."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        cache = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return cache / "nested-sparse" / "profiles"


class ProfileStore:
    """A folder with a JSON file per key, readable by this user only.

    Beside its profiles, a key has facts by name, each a value of JSON. They are dropped where its profile is measured
    anew: the device is then no longer as it was.

    It is a cache. A file that cannot be read or written, is damaged, belongs to another key or is too large is named in
    one line of the log, and treated as missing. No errors are raised. Several processes may share a folder: files
    appear whole, and where two write one key at the same time, the later file stays. Beyond MOST_FILES the oldest files
    are removed; files of other names are never touched.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @staticmethod
    def key(session: Session, max_batch: int) -> ProfileKey:
        """The key of a session's profile, up to a largest batch, with its present number of threads."""
        return profile_key(session, max_batch)

    def path(self, key: ProfileKey) -> Path:
        """The file of `key`."""
        return self.folder / f"{hashlib.sha256(_text(key).encode()).hexdigest()[:32]}.json"

    def load(self, key: ProfileKey) -> LatencyProfile | None:
        """The profile from all kept measurements of `key`; None without any."""
        history, _ = self._entry(key)
        return reduce(LatencyProfile.quieter, history) if history else None

    def save(self, key: ProfileKey, measured: LatencyProfile) -> LatencyProfile:
        """Add a measurement to those of `key`; the last HISTORY are kept. Returns the profile from all of them."""
        history = [*self._entry(key)[0], measured][-HISTORY:]
        self._save(key, history, {})
        return reduce(LatencyProfile.quieter, history)

    def fact(self, key: ProfileKey, name: str) -> Any:
        """A fact of `key`, as keep() got it, but whatever wrote the file: check it. None where it is not kept."""
        return self._entry(key)[1].get(name)

    def keep(self, key: ProfileKey, name: str, value: Any) -> None:
        """Keep a fact of `key`, a value of JSON; None: no longer."""
        history, facts = self._entry(key)
        self._save(key, history, {**facts, name: value})

    def _save(self, key: ProfileKey, history: list[LatencyProfile], facts: dict[str, Any]) -> None:
        profiles = [json.loads(each.to_json()) for each in history]
        text = json.dumps({"version": FORMAT_VERSION, "key": key, "profiles": profiles, "facts": facts})
        try:
            self._write(self.path(key), text)
            self._prune()
        except OSError as error:
            log.warning("latency profile: not kept, %s: %s", self.folder, error.strerror or error)

    def _entry(self, key: ProfileKey) -> tuple[list[LatencyProfile], dict[str, Any]]:
        path = self.path(key)
        try:
            return _parse(_read(path), key)
        except FileNotFoundError:
            return [], {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.warning("latency profile: %s is of no use and is measured anew: %s", path, error)
            return [], {}

    def _write(self, path: Path, text: str) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes files that only their owner may read
        handle, temporary = tempfile.mkstemp(prefix=f".{path.stem}-", dir=self.folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _prune(self) -> None:
        ours = [path for path in self.folder.iterdir() if OURS.fullmatch(path.name)]
        for path in sorted(ours, key=_age)[MOST_FILES:] if len(ours) > MOST_FILES else ():
            path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:  # another process was quicker
        return 0.0


def _read(path: Path) -> str:
    with open_regular(path) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    return data.decode()


def _parse(text: str, key: ProfileKey) -> tuple[list[LatencyProfile], dict[str, Any]]:
    fields: dict[str, Any] = json.loads(text)
    if fields["version"] != FORMAT_VERSION:
        raise ValueError(f"version {excerpt(repr(fields['version']))} is not {FORMAT_VERSION}")
    if _text(fields["key"]) != _text(key):
        raise ValueError("it was measured for something else")
    history = [LatencyProfile.from_json(json.dumps(each)) for each in fields["profiles"][-HISTORY:]]
    if len({each.level_count for each in history}) > 1:
        raise InputError("its profiles have different numbers of levels")
    return history, dict(fields.get("facts", {}))


def _text(key: Any) -> str:
    return json.dumps(key, sort_keys=True)
