"""Random faults: a download or an update is disturbed at 200 random points, in six ways."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fetching_device import FILE, Device, Published, wait_until
from file_server import FileServer

from nested_sparse.serving.signature import PublicKey, signer
from support import ROOT

POINTS, SHORT_POINTS = 200, 6


class Trial:
    """One point: `server` offers `goal`; `base` is served until then, or nothing. at: bytes until the fault."""

    def __init__(self, server: FileServer, goal: Published, base: Published | None, at: int, other: Path) -> None:
        self.server, self.goal, self.base, self.at, self.other = server, goal, base, at, other

    def check(self, device: Device) -> None:
        """Each answer is one of `base` or of the first levels of `goal`; there is one, where there was one before."""
        if self.base is not None:
            assert device.levels == len(self.goal.answers)
            assert device.serves(self.base) or device.serves(self.goal)
        elif device.levels:
            levels = device.levels
            assert device.serves(self.goal, levels) or device.levels > levels

    @contextmanager
    def cut(self) -> Iterator[None]:
        self.server.cut_after = self.at
        yield

    @contextmanager
    def server_killed(self) -> Iterator[None]:
        dead = threading.Event()

        def die() -> None:
            self.server.stop()
            dead.set()

        self.server.trigger = (self.at, lambda: threading.Thread(target=die).start())
        yield
        assert dead.wait(60)
        self.server.start()

    @contextmanager
    def wrong_bytes(self) -> Iterator[None]:
        self.server.wrong_at = self.goal.manifest.nbytes - 1 - self.at
        yield
        self.server.wrong_at = None

    @contextmanager
    def wrong_signature(self) -> Iterator[None]:
        right, changing, over = dict(self.server.files), threading.Lock(), threading.Event()
        forged = replace(self.goal.manifest, serial=9).signed(signer(self.other)).raw

        def forge() -> None:  # from a thread of the server, which must not undo what follows the fault
            with changing:
                if not over.is_set():
                    self.server.files = {**right, f"{FILE}.manifest": forged}

        self.server.trigger = (self.at, forge)
        self.server.cut_after = self.at
        yield
        with changing:
            over.set()
            self.server.files = right

    @contextmanager
    def disk_full(self) -> Iterator[None]:
        write, flush, left = os.pwrite, os.fsync, [self.at]

        def written(fd: int, data: Any, offset: int) -> int:
            left[0] -= len(data)
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(fd, data, offset)

        def flushed(fd: int) -> None:
            if left[0] < 0 or self.at % 3 == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            flush(fd)

        with mock.patch.object(os, "pwrite", written), mock.patch.object(os, "fsync", flushed):
            yield


FAULTS: tuple[Callable[[Trial], Any], ...] = (
    Trial.cut,
    Trial.server_killed,
    Trial.wrong_bytes,
    Trial.wrong_signature,
    Trial.disk_full,
)


def killed(trial: Trial, folder: Path, public: Path) -> None:
    """A process follows the server until it is killed after so many bytes, or after it has them all."""
    command = [sys.executable, str(ROOT / "tests/fetching_device.py"), str(folder), trial.server.url, str(public)]
    with subprocess.Popen(command) as process:
        trial.server.trigger = (trial.at, process.kill)
        asked = len(trial.server.asked)
        wait_until(lambda: process.poll() is not None or len(trial.server.asked) > asked + 3, 60)
        process.kill()
        process.wait()
    trial.server.trigger = None


def one_point(trial: Trial, fault: Callable[[Trial], Any] | None, folder: Path, public: Path) -> None:
    """Disturb, look, take the cause away, and look again; then start without a file server."""
    server, key = trial.server, PublicKey(public)
    if fault is None:
        killed(trial, folder, public)
    with Device(folder, server.url, key) as device:
        with ExitStack() as stack:
            if fault is not None:
                stack.enter_context(fault(trial))
            device.follower.poll()
            asked = len(server.asked)
            for _ in range(10):
                trial.check(device)
                wait_until(lambda: len(server.asked) > asked + 2, 0.03)
        device.follower.poll()
        assert device.becomes(trial.goal)
    server.stop()
    with Device(folder, server.url, key) as device:
        assert device.serves(trial.goal)
    server.start()


def disturb(points: int, first: Published, second: Published, keys: list[Path], tmp_path: Path) -> None:
    own, public, other = keys
    sign = signer(own)
    first, second = (replace(each, manifest=each.manifest.signed(sign)) for each in (first, second))
    with FileServer(first.files) as server:
        with Device(tmp_path / "served", server.url, PublicKey(public)) as device:
            assert device.becomes(first)
            assert wait_until(lambda: not (device.store.folder / "partial").exists())
        draws = random.Random(0)
        for point in range(points):
            updates = point // len(FAULTS) % 2 == 1
            goal, folder = second if updates else first, tmp_path / "point"
            if updates:
                shutil.copytree(tmp_path / "served", folder)
            changed = goal.manifest.pieces[0].nbytes + goal.manifest.pieces[-1].nbytes
            at = draws.randrange(changed if updates else goal.manifest.nbytes)
            server.count_anew(goal.files)
            server.trigger = server.cut_after = None
            trial = Trial(server, goal, first if updates else None, at, other)
            kind = point % (len(FAULTS) + 1)
            one_point(trial, FAULTS[kind] if kind < len(FAULTS) else None, folder, public)
            shutil.rmtree(folder)


def test_a_few_points(first: Published, second: Published, keys: list[Path], tmp_path: Path) -> None:
    """Each kind of fault once."""
    disturb(SHORT_POINTS, first, second, keys, tmp_path)


@pytest.mark.slow
def test_many_points(first: Published, second: Published, keys: list[Path], tmp_path: Path) -> None:
    """Never a wrong answer, never without the last good model, and always the end when the cause is gone."""
    disturb(POINTS, first, second, keys, tmp_path)
