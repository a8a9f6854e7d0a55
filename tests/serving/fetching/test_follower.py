"""Follower: a device that follows a file server which is slow, lies or dies."""

from __future__ import annotations

import os
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fetching_device import FILE, Device, Published, stall_after, wait_until
from file_server import FileServer

from nested_sparse.errors import ServingError
from nested_sparse.serving.fetching.model_store import ModelStore
from nested_sparse.serving.signature import PublicKey, signer


def test_the_first_level_answers_before_the_rest_has_come(server: FileServer, first: Published, tmp_path: Path) -> None:
    """The link rests after level 0: that level answers. Then it goes on: all levels answer."""
    stall_after(server, first, 1)
    with Device(tmp_path, server.url) as device:
        assert device.becomes(first, levels=1)
        server.stalled = False
        assert device.becomes(first)
        assert wait_until(lambda: not (device.store.folder / "partial").exists())
    assert server.sent == first.manifest.nbytes + len(first.manifest.raw)


def test_a_cut_link_goes_on_where_it_ended(server: FileServer, first: Published, tmp_path: Path) -> None:
    """No byte comes twice, but for those of the manifest and those in flight."""
    for nbytes in (10, 50_000, 600_000):
        server.cut_after = nbytes
        with Device(tmp_path / str(nbytes), server.url) as device:
            assert device.becomes(first)
        assert server.sent <= first.manifest.nbytes + 2 * len(first.manifest.raw)
        server.count_anew()


def test_a_stopped_download_goes_on_after_a_restart(server: FileServer, first: Published, tmp_path: Path) -> None:
    """Also where the last bytes on the disk are wrong, as after a power cut: their piece alone comes again."""
    stall_after(server, first, 3)
    with Device(tmp_path, server.url) as device:
        assert wait_until(lambda: device.levels == 3)
        device.follower.close()
        server.stalled = False
    path = tmp_path / "net/partial/model.safetensors"
    begin = first.manifest.prefix_nbytes(2)
    with path.open("r+b") as file:
        file.seek(begin + 100)
        file.write(b"\0" * 1000)
    server.count_anew()
    with Device(tmp_path, server.url) as device:
        assert device.levels  # without the file server
        assert device.becomes(first)
    assert server.sent == first.manifest.nbytes - begin + len(first.manifest.raw)


def test_a_server_without_ranges_will_do(server: FileServer, first: Published, tmp_path: Path) -> None:
    """The bytes that are there already are skipped."""
    server.ranges, server.etags, server.cut_after = False, False, 300_000
    with Device(tmp_path, server.url) as device:
        assert device.becomes(first)


def test_an_update_brings_what_changed(server: FileServer, first: Published, second: Published, tmp_path: Path) -> None:
    """Of a model whose densest level is another: that segment, the header and the manifest."""
    with Device(tmp_path, server.url) as device:
        assert device.becomes(first)
        assert wait_until(lambda: not (device.store.folder / "partial").exists())
        server.count_anew(second.files)
        device.follower.poll()
        assert device.becomes(second)
        pieces = second.manifest.pieces
        assert server.sent == pieces[0].nbytes + pieces[-1].nbytes + len(second.manifest.raw)
        assert wait_until(lambda: not (device.store.folder / "partial").exists())
        loads, asked = device.loads, len(server.asked)
        device.follower.poll()
        assert wait_until(lambda: len(server.asked) > asked)
        assert device.loads == loads
    assert len(device.store.versions) == 2
    server.stop()
    with Device(tmp_path, server.url) as device:  # without the file server
        assert device.serves(second)
    server.start()


def test_an_update_that_comes_during_a_download_uses_what_has_come(
    server: FileServer, first: Published, second: Published, tmp_path: Path
) -> None:
    stall_after(server, first, 3)
    with Device(tmp_path, server.url) as device:
        assert wait_until(lambda: device.levels == 3)
        device.follower.close()
        server.stalled = False
    server.count_anew(second.files)
    with Device(tmp_path, server.url) as device:
        assert device.becomes(second)
    pieces = second.manifest.pieces
    assert server.sent == pieces[0].nbytes + pieces[-1].nbytes + len(second.manifest.raw)


def test_wrong_bytes_are_never_served(server: FileServer, first: Published, tmp_path: Path) -> None:
    """A byte of level 1 comes wrong, and later right."""
    server.wrong_at = first.manifest.prefix_nbytes(1) + 17
    with Device(tmp_path, server.url) as device:
        assert device.becomes(first, levels=1)
        assert wait_until(lambda: len(server.asked) > 8)
        assert device.serves(first, levels=1)
        server.wrong_at = None
        assert device.becomes(first)
    assert device.faults == []


def test_only_what_the_owner_of_the_key_signed_is_taken(
    server: FileServer, first: Published, second: Published, keys: list[Path], tmp_path: Path
) -> None:
    """Unsigned, signed by another key, signed and changed by a bit, signed for another file: none of them."""
    own, public, other = keys
    signed = replace(first, manifest=first.manifest.signed(signer(own)))
    with Device(tmp_path, server.url, PublicKey(public)) as device:
        for raw in (
            first.manifest.raw,
            first.manifest.signed(signer(other)).raw,
            signed.manifest.raw.replace(b'"serial":1', b'"serial":2'),
            second.manifest.raw.partition(b"\n")[0] + b"\n" + signed.manifest.raw.partition(b"\n")[2],
        ):
            server.files[f"{FILE}.manifest"] = raw
            asked = len(server.asked)
            assert wait_until(lambda asked=asked: len(server.asked) > asked + 1)  # type: ignore[misc]
        assert device.levels == 0
        assert {path for path, _, _ in server.asked} == {f"{FILE}.manifest"}
        server.files = signed.files
        assert device.becomes(first)
    with (tmp_path / "net" / str(device.store.versions[-1]) / "manifest").open("r+b") as file:
        file.seek(30)
        file.write(b"9")
    server.stop()
    with Device(tmp_path, server.url, PublicKey(public)) as device:  # a version that was tampered with is not served
        assert not device.serves(first)
    server.start()


def test_a_version_that_fails_its_self_check_is_refused_once(
    server: FileServer,
    first: Published,
    second: Published,
    failing: Published,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The one before goes on, also after a restart; the failing one is not fetched again; the next one is taken."""
    with Device(tmp_path, server.url) as device:
        assert device.becomes(first)
        server.files = failing.files
        device.follower.poll()
        assert wait_until(lambda: device.faults != [])
        assert wait_until(lambda: device.store.is_refused(failing.manifest))
        assert device.serves(first)
        asked = len(server.asked)
        device.follower.poll()
        assert wait_until(lambda: len(server.asked) > asked)
    assert "self-check: level 3, 'output'" in device.faults[0]
    assert caplog.text.count("refused") == 1
    assert "next try" not in caplog.text
    server.count_anew()
    with Device(tmp_path, server.url) as device:
        assert device.serves(first)
        assert wait_until(lambda: server.sent >= len(failing.manifest.raw))
        newer = replace(second, manifest=replace(second.manifest, serial=4).signed())
        server.files = newer.files
        device.follower.poll()
        assert device.becomes(second)
    assert server.sent < first.manifest.nbytes


def test_bytes_come_before_the_libraries(server: FileServer, first: Published, tmp_path: Path) -> None:
    """A start fetches while it imports numpy and ONNX Runtime; a version is made once they are there."""
    loaded = threading.Event()
    with Device(tmp_path, server.url, loaded=loaded) as device:
        assert wait_until(lambda: server.sent == first.manifest.nbytes + len(first.manifest.raw))
        assert device.store.versions == []
        assert not device.follower.settled.is_set()
        loaded.set()
        assert device.becomes(first)


def test_an_older_serial_is_not_taken(server: FileServer, first: Published, second: Published, tmp_path: Path) -> None:
    """A replayed manifest, whoever signed it."""
    server.files = second.files
    with Device(tmp_path, server.url) as device:
        assert device.becomes(second)
        asked, server.files = len(server.asked), first.files
        device.follower.poll()
        assert wait_until(lambda: len(server.asked) > asked + 2)
        assert device.serves(second)


def test_a_model_whose_first_level_fails_is_not_fetched_further(
    server: FileServer, first: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sample's answer at level 0 is another one: the other levels would be of no use."""
    check = first.manifest.self_check
    wrong = {name: tuple(-value for value in values) for name, values in check.expected[0].items()}
    stated = replace(check, expected=(wrong, *check.expected[1:]))
    manifest = replace(first.manifest, self_check=stated).signed()
    server.files[f"{FILE}.manifest"] = manifest.raw
    stall_after(server, replace(first, manifest=manifest), 1)
    with Device(tmp_path, server.url) as device:
        assert wait_until(lambda: "is refused" in caplog.text)
        assert device.store.is_refused(manifest)
        server.stalled = False
        device.follower.poll()
        assert wait_until(lambda: len(server.asked) == 3)  # the manifest, the file, and the manifest again
    assert caplog.text.count("refused") == 1
    assert device.levels == 0
    assert (tmp_path / "net/partial/model.safetensors").stat().st_size <= manifest.prefix_nbytes(1) + (1 << 17)


def test_another_key_takes_nothing_away(server: FileServer, first: Published, keys: list[Path], tmp_path: Path) -> None:
    """A start with the wrong key serves nothing; the next one, with the right key, serves what is on the disk."""
    own, public, other = keys
    server.files[f"{FILE}.manifest"] = first.manifest.signed(signer(own)).raw
    with Device(tmp_path, server.url, PublicKey(public)) as device:
        assert device.becomes(first)
        assert wait_until(lambda: not (device.store.folder / "partial").exists())
    asked = len(server.asked)
    with Device(tmp_path, server.url, PublicKey(other.with_suffix(".pub"))) as device:
        assert wait_until(lambda: len(server.asked) > asked + 1)
        assert device.levels == 0
    server.stop()
    with Device(tmp_path, server.url, PublicKey(public)) as device:
        assert device.serves(first)
    server.start()


def test_one_server_at_a_time_uses_a_folder(tmp_path: Path) -> None:
    store = ModelStore(tmp_path, "net", 1)
    with pytest.raises(ServingError, match="another server uses it"):
        ModelStore(tmp_path, "net", 1)
    store.close()
    ModelStore(tmp_path, "net", 1).close()


def test_a_damaged_version_is_fetched_again(server: FileServer, first: Published, tmp_path: Path) -> None:
    """The version before it serves until then."""
    with Device(tmp_path, server.url) as device:
        assert device.becomes(first)
        assert wait_until(lambda: not (device.store.folder / "partial").exists())
    newest = tmp_path / "net" / str(device.store.versions[-1]) / "model.safetensors"
    with newest.open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        file.write(b"damage")
    with Device(tmp_path, server.url) as device:
        assert device.levels in (0, 1, 2, 3)
        assert device.becomes(first)


@pytest.mark.parametrize("status", [404, 416, 500, 503])
def test_a_server_that_refuses_is_asked_again(
    server: FileServer, first: Published, tmp_path: Path, status: int
) -> None:
    server.status = status
    with Device(tmp_path, server.url) as device:
        assert device.follower.settled.wait(20)
        assert device.levels == 0
        server.status = None
        assert device.becomes(first)


def test_the_first_try_again_comes_soon(server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """After FIRST_WAIT_S, then twice as long; the test has 0.02 s."""
    server.status = 503
    with Device(tmp_path, server.url):
        assert wait_until(lambda: "0.04 s" in caplog.text)
    waits = re.findall(r"the next try is in ([0-9.]+) s", caplog.text)
    assert waits[:2] == ["0.02", "0.04"]


def test_a_file_that_changes_before_its_manifest(
    server: FileServer, first: Published, second: Published, tmp_path: Path
) -> None:
    """The publisher has copied the new file and not yet its manifest: nothing wrong is served, and it ends well."""
    server.files = {**first.files, FILE: second.files[FILE]}
    with Device(tmp_path, server.url) as device:
        assert wait_until(lambda: len(server.asked) > 4)
        assert device.levels == 0
        server.files = second.files
        assert device.becomes(second)
