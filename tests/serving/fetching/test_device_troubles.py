"""Troubles of a device that follows a file server: handles, memory, the operator library, and the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from fetching_device import Device, Published, stall_after, wait_until
from file_server import FileServer

from nested_sparse.errors import CheckpointError, KernelError, RepositoryError, UnavailableError
from nested_sparse.serving.fetching.fetch_counts import RoomError
from nested_sparse.serving.fetching.model_store import ModelStore


def unreadable() -> CheckpointError:
    """As `Checkpoint.open` raises it."""
    try:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError:
            raise CheckpointError("cannot be read (Too many open files)") from None
    except CheckpointError as error:
        return error


def fail_first(monkeypatch: pytest.MonkeyPatch, name: str, errors: list[Exception]) -> None:
    """Have the method `name` of Device raise each of `errors` once, before it works again."""
    works = getattr(Device, name)

    def failing(device: Device, *arguments: Any) -> None:
        if errors:
            raise errors.pop(0)
        works(device, *arguments)

    monkeypatch.setattr(Device, name, failing)


def not_loaded(cause: Exception) -> RepositoryError:
    """As Repository.load() raises it."""
    error = RepositoryError("not now")
    error.__cause__ = cause
    return error


def test_a_passing_trouble_refuses_nothing(
    server: FileServer, first: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that fails for a reason of this moment, whatever it is: the next one serves.

    Handles may be wanting for long.
    """
    causes = [CheckpointError("cannot be read"), MemoryError("none left"), UnavailableError("later")]
    errors: list[Exception] = [not_loaded(each) for each in (*causes, unreadable(), unreadable(), unreadable())]
    fail_first(monkeypatch, "take_over", errors)
    with Device(tmp_path, server.url) as device:
        assert device.becomes(first)
        assert not device.store.is_refused(first.manifest)
    assert errors == []


def test_a_start_that_cannot_load_its_version_just_now_tries_again(
    server: FileServer, first: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its file server, and with no new version in sight."""
    with Device(tmp_path, server.url) as device:
        assert device.becomes(first)
        assert wait_until(lambda: not (device.store.folder / "partial").exists())
    server.stop()
    fail_first(monkeypatch, "_open", [unreadable() for _ in range(6)])
    with Device(tmp_path, server.url) as device:
        assert device.levels == 0
        assert device.becomes(first)
    server.start()


def test_a_first_level_that_cannot_be_loaded_just_now_is_tried_again(
    server: FileServer, first: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link rests after it, so that no further level asks for a load."""
    stall_after(server, first, 1)
    fail_first(monkeypatch, "take_over", [UnavailableError("another load is under way") for _ in range(2)])
    with Device(tmp_path, server.url) as device:
        assert device.becomes(first, levels=1)
        server.stalled = False


def test_an_operator_library_that_does_not_fit_takes_no_version_away(
    server: FileServer, first: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a broken upgrade: the versions on the disk stay, and the next start serves them."""
    with Device(tmp_path, server.url) as device:
        assert device.becomes(first)
        assert wait_until(lambda: not (device.store.folder / "partial").exists())
    versions, asked = device.store.versions, len(server.asked)

    def unfit(device: Device) -> None:
        raise RepositoryError("net cannot be loaded") from KernelError("another version")

    with monkeypatch.context() as patched:
        patched.setattr(Device, "take_over", unfit)
        with Device(tmp_path, server.url) as device:
            assert wait_until(lambda: len(server.asked) > asked)
    assert device.store.versions == versions
    server.stop()
    with Device(tmp_path, server.url) as device:
        assert device.serves(first)
    server.start()


def test_a_full_disk_is_waited_for(
    server: FileServer,
    first: Published,
    second: Published,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While the disk is full, what is there is served; when there is room again, the download ends."""
    write, left = os.pwrite, [300_000]

    def until_full(fd: int, data: Any, offset: int) -> int:
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", until_full)
    with Device(tmp_path, server.url) as device:
        assert wait_until(lambda: device.levels == 2)
        assert wait_until(lambda: len(server.asked) > 6)
        assert f"net: {tmp_path / 'net'}: No space left on device" in caplog.text
        left[0] = 10**9
        assert device.becomes(first)
        left[0], server.files = 100_000, second.files
        device.follower.poll()
        assert wait_until(lambda: left[0] < 0)
        assert device.serves(first)
        left[0] = 10**9
        assert device.becomes(second)


def test_a_model_takes_no_more_disk_than_it_may(
    server: FileServer, first: Published, second: Published, tmp_path: Path
) -> None:
    """Headers and manifests count, too: a version has both beside its file, and a download has its manifest."""

    def version(published: Published) -> int:
        manifest = published.manifest
        return manifest.nbytes + manifest.pieces[0].nbytes + len(manifest.raw)

    least = version(first) + version(second) + len(second.manifest.raw)
    small = ModelStore(tmp_path / "small", "net", version(first) + len(first.manifest.raw) - 1)
    with pytest.raises(RoomError, match="--fetch-max-mb"):
        small.open_partial(first.manifest)
    with Device(tmp_path, server.url, most_bytes=least - 1) as device:
        assert device.becomes(first)
        assert wait_until(lambda: not (device.store.folder / "partial").exists())
        server.files = second.files
        device.follower.poll()
        assert wait_until(lambda: device.follower.counts.failures["disk"] > 0)
        assert device.serves(first)
    with Device(tmp_path, server.url, most_bytes=least) as device:
        assert device.becomes(second)
        assert wait_until(lambda: not (device.store.folder / "partial").exists())
    files = {path.stat().st_ino: path.stat().st_size for path in tmp_path.glob("net/*/*")}
    assert sum(files.values()) == least - len(second.manifest.raw)


def test_first_levels_that_do_not_fit_beside_the_download_are_not_served(
    server: FileServer, first: Published, tmp_path: Path
) -> None:
    """Where the disk has no room for both, the whole file is waited for."""
    stall_after(server, first, 3)
    manifest = first.manifest
    alone = manifest.nbytes + manifest.pieces[0].nbytes + 2 * len(manifest.raw)
    with Device(tmp_path, server.url, most_bytes=alone) as device:
        assert wait_until(lambda: (tmp_path / "net/partial/model.safetensors").exists())
        assert wait_until(lambda: server.stalled)
        assert device.levels == 0
        server.stalled = False
        assert device.becomes(first)
    assert device.loads == 1
