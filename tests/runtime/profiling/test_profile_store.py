"""ProfileStore: saved profiles are loaded; a damaged, foreign or unreachable one counts as missing."""

from __future__ import annotations

import json
import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.profiling.profile_store import HISTORY, MOST_BYTES, ProfileStore, default_folder

KEY: dict[str, str | int] = {"checkpoint": "abc", "threads": 2}
PROFILE = LatencyProfile([1, 8], [[1.0, 6.0], [2.0, 12.0]])


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "deep" / "profiles")


def same(one: LatencyProfile | None, other: LatencyProfile) -> bool:
    return one is not None and one.to_json() == other.to_json()


def test_a_saved_profile_is_loaded(store: ProfileStore) -> None:
    """A saved profile is loaded for its own key only."""
    assert store.load(KEY) is None
    assert same(store.save(KEY, PROFILE), PROFILE)
    assert same(ProfileStore(store.folder).load(dict(reversed(KEY.items()))), PROFILE)
    assert store.load({**KEY, "threads": 1}) is None


def test_only_the_user_may_read(store: ProfileStore) -> None:
    """File 0600, folder 0700, and no temporary file is left."""
    store.save(KEY, PROFILE)
    assert [path.name for path in store.folder.iterdir()] == [store.path(KEY).name]
    assert stat.S_IMODE(store.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(store.path(KEY).stat().st_mode) == 0o600


@given(st.lists(st.tuples(st.floats(0.1, 100), st.floats(0.1, 100)), min_size=1, max_size=3 * HISTORY))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
def test_the_least_of_the_last_measurements_is_believed(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, float]]
) -> None:
    """One quiet measurement outlives busy ones, but not HISTORY of them."""
    store = ProfileStore(tmp_path_factory.mktemp("profiles"))
    for count, row in enumerate(rows, 1):
        agreed = store.save(KEY, LatencyProfile([1, 8], [row]))
        recent = [LatencyProfile([1, 8], [each]).median_ms[0] for each in rows[max(0, count - HISTORY) : count]]
        assert agreed.median_ms[0] == tuple(map(min, zip(*recent, strict=True)))
        assert same(store.load(KEY), agreed)


def kept(**changes: object) -> str:
    fields = {"version": 1, "key": KEY, "profiles": [json.loads(PROFILE.to_json())], **changes}
    return json.dumps(fields)


DAMAGED = {
    "empty": "",
    "cut": kept()[:-10],
    "a list": "[]",
    "a number": "7",
    "deep": "[" * 100_000,
    "not text": b"\xff\xfe\x00",
    "another key": kept(key={**KEY, "threads": 7}),
    "no key": kept(key=None),
    "another version": kept(version=2),
    "no profile": kept(profiles=[{"version": 1}]),
    "profiles a number": kept(profiles=3),
    "negative": kept(profiles=[{"version": 1, "batches": [1], "median_ms": [[-1]], "p95_ms": [[1]]}]),
    "unlike levels": kept(
        profiles=[json.loads(PROFILE.to_json()), json.loads(LatencyProfile([1], [[1.0]]).to_json())],
    ),
    "no facts": kept(facts=[1]),
    "too large": " " * MOST_BYTES + kept(),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_ignored_and_replaced(
    store: ProfileStore, content: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, no profile, no exception; the next save heals it."""
    store.folder.mkdir(parents=True)
    store.path(KEY).write_bytes(content if isinstance(content, bytes) else content.encode())
    with caplog.at_level(logging.WARNING):
        assert store.load(KEY) is None
    assert len(caplog.records) == 1
    assert "is of no use and is measured anew" in caplog.text
    assert same(store.save(KEY, PROFILE), PROFILE)
    assert same(store.load(KEY), PROFILE)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_an_entry_that_is_no_file_is_ignored(store: ProfileStore, make, caplog: pytest.LogCaptureFixture) -> None:
    """Neither waited for nor read."""
    store.folder.mkdir(parents=True)
    make(store.path(KEY))
    with caplog.at_level(logging.WARNING):
        assert store.load(KEY) is None
    assert "not a regular file" in caplog.text


def test_a_folder_that_cannot_be_had(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The measurement is used all the same."""
    (tmp_path / "file").write_text("in the way")
    store = ProfileStore(tmp_path / "file" / "profiles")
    with caplog.at_level(logging.WARNING):
        assert store.load(KEY) is None
        assert same(store.save(KEY, PROFILE), PROFILE)
    assert "not kept" in caplog.text


def test_writers_at_once_leave_a_whole_file(store: ProfileStore) -> None:
    """The file holds a complete profile, whichever writer was last."""
    with ThreadPoolExecutor(8) as pool:
        for agreed in pool.map(lambda ms: store.save(KEY, LatencyProfile([1], [[ms]])), range(1, 41)):
            assert agreed.level_count == 1
    assert store.load(KEY) is not None
    assert [path.name for path in store.folder.iterdir()] == [store.path(KEY).name]


def test_old_profiles_leave(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of ours, what killed writers left among them; nothing that is not ours, in a folder the user chose."""
    monkeypatch.setattr("nested_sparse.runtime.profiling.profile_store.MOST_FILES", 3)
    store.folder.mkdir(parents=True)
    for index, name in enumerate(["notes.txt", "a.json", f".{'0' * 32}-killed", *(f"{n:032x}.json" for n in range(4))]):
        (store.folder / name).write_text("x")
        os.utime(store.folder / name, (1000 + index, 1000 + index))
    store.save(KEY, PROFILE)
    left = {path.name for path in store.folder.iterdir()}
    assert left == {"notes.txt", "a.json", f"{2:032x}.json", f"{3:032x}.json", store.path(KEY).name}


def test_the_default_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """XDG_CACHE_HOME where it is absolute, as its specification asks, else ~/.cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg/nested-sparse/profiles"
    for useless in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", useless)
        assert default_folder() == tmp_path / ".cache/nested-sparse/profiles"


def test_facts_are_kept_until_the_profile_is_measured_anew(store: ProfileStore) -> None:
    """Each by its name; a fact needs no profile, and does not change it."""
    assert store.fact(KEY, "joins") is None
    store.keep(KEY, "joins", False)
    assert store.load(KEY) is None
    assert store.fact(KEY, "joins") is False
    store.save(KEY, PROFILE)
    assert store.fact(KEY, "joins") is None
    store.keep(KEY, "joins", True)
    store.keep(KEY, "routes", {"layers": ["a"]})
    assert same(ProfileStore(store.folder).load(KEY), PROFILE)
    assert store.fact(KEY, "joins") is True
    assert store.fact(KEY, "routes") == {"layers": ["a"]}
    assert store.fact({**KEY, "threads": 1}, "joins") is None
    store.keep(KEY, "joins", None)
    assert store.fact(KEY, "joins") is None


def test_a_file_without_facts_is_read(store: ProfileStore) -> None:
    """As earlier versions wrote it."""
    store.save(KEY, PROFILE)
    content = json.loads(store.path(KEY).read_text())
    del content["facts"]
    store.path(KEY).write_text(json.dumps(content))
    assert same(store.load(KEY), PROFILE)
    assert store.fact(KEY, "joins") is None
