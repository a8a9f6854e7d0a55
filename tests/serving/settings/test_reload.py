"""Reload: the changed settings that take effect at a SIGHUP, and the log lines of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from chain import counting_chain
from nested_sparse.runtime.resources import Governor, LimitConfig, ResourceMonitor
from nested_sparse.runtime.scheduling import Device, Request
from nested_sparse.runtime.session import Session
from nested_sparse.serving.load import load_model
from nested_sparse.serving.served_model import ServedModel
from nested_sparse.serving.server import Server, ServerConfig
from nested_sparse.serving.settings import reload
from nested_sparse.serving.settings.groups import Limits, Models, OwnModel
from nested_sparse.serving.settings.parts import limit_config, model_config
from nested_sparse.serving.settings.setting import settings_of
from nested_sparse.serving.settings.settings import GROUPS, OWN, Settings

BEFORE = Settings(models=Models(files=(Path("net.safetensors"),), slo_ms=100.0), model={"net": OwnModel(priority=1)})
OTHER: dict[str, Any] = {
    "host": "::1", "policy": "slackfit", "profile_cache": "off", "log_format": "json", "version_policy": "all",
    "min_frequency": 0.5, "files": (Path("a.safetensors"),), "model_dir": Path("models"),
}  # fmt: skip
KEYS = [(table, key) for table, group in {**GROUPS, OWN: OwnModel}.items() for key in settings_of(group)]


@pytest.mark.parametrize(("table", "key"), KEYS)
def test_each_value_is_found_and_those_that_can_change_do(table: str, key: str) -> None:
    """Alone: nothing else changes with it."""
    group = OwnModel if table == OWN else GROUPS[table]
    value = OTHER.get(key, True if isinstance(getattr(group(), key), bool) else 7)
    if table == OWN:
        after = replace(BEFORE, model={"net": replace(BEFORE.model["net"], **{key: value})})
    else:
        after = replace(BEFORE, **{table: replace(getattr(BEFORE, table), **{key: value})})
    (change,) = reload.differences(BEFORE, after)
    assert (change.table, change.key, change.after) == (f"{OWN}.net" if table == OWN else table, key, value)
    assert change.live == settings_of(group)[key].live
    assert reload.changed(BEFORE, after) == (after if change.live else BEFORE)


def test_the_table_of_a_model_comes_and_goes() -> None:
    after = replace(BEFORE, model={"other": OwnModel(slo_ms=3.0, level=1)})
    assert [str(change) for change in reload.differences(BEFORE, after)] == [
        "[model.net] priority: 1 -> 0",
        "[model.other] slo_ms: none -> 3.0",
        "[model.other] level: none -> 1",
    ]
    assert reload.changed(BEFORE, after).model == {"net": OwnModel(), "other": OwnModel(slo_ms=3.0)}


def test_what_is_served_follows(tmp_path: Path) -> None:
    """The time of a request that states none, the priority, the readings and the grace."""
    path = tmp_path / "net.safetensors"
    counting_chain(path, 2, 4, 3)
    own = OwnModel(priority=7, slo_ms=60_000.0, min_memory_mb=0)
    after = replace(BEFORE, limits=Limits(grace_s=5.0, min_battery=30.0), model={"net": own})
    governor = Governor(ResourceMonitor(probes={}), LimitConfig(min_available_memory_bytes=None))

    async def follow(model: ServedModel) -> None:
        server = Server([model], ServerConfig(port=0))
        reload.apply(BEFORE, after, server, governor)
        assert server._config.grace_s == 5.0

    with Session(path, threads=1) as session:
        model = load_model(session, model_config(BEFORE.of_model("net")), Device(), None, governor)
        try:
            asyncio.run(follow(model))
            assert model.default_slo_ms == 60_000.0
            request = Request({spec.name: np.zeros(spec.example_shape, spec.dtype) for spec in model.inputs})
            assert model.engine.submit(request).result(60).time_limit_ms == 60_000.0
            assert model.engine._dispatcher.priority == 7
            (watched,) = governor._watched
            assert watched.priority == 7
            assert watched.limits._config == limit_config(after.of_model("net"))
            assert watched.limits._config.min_battery_percent == 30.0
        finally:
            model.engine.close(0.0)


COMMAND = (sys.executable, "-m", "nested_sparse.serving", "serve", "--json", "--port", "0", "--config")
FILE = 'slo_ms = {slo_ms}\nfiles = ["net.safetensors"]\nthreads = 1\nprofile_cache = "off"\n'


@contextlib.contextmanager
def process(path: Path, log: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with this file of settings, and its address."""
    with (
        log.open("w") as stderr,
        subprocess.Popen([*COMMAND, str(path)], stdout=PIPE, stderr=stderr, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            yield server, json.loads(server.stdout.readline())["address"]
            server.terminate()
            assert server.wait(60) == 0
        finally:
            server.kill()


def wait_for(log: Path, text: str) -> None:
    """Until the log has this text."""
    end_s = time.monotonic() + 60
    while text not in log.read_text():
        assert time.monotonic() < end_s, log.read_text()
        time.sleep(0.02)


def ask(address: str, asked: int) -> int:
    """The number of answers to so many requests, one after the other."""
    with triton.InferenceServerClient(address) as client:
        metadata = client.get_model_metadata("net")
        (spec,), (output,) = metadata.inputs, metadata.outputs
        values = np.zeros([1, *spec.shape[1:]], np.float32)
        tensor = triton.InferInput(spec.name, list(values.shape), spec.datatype)
        tensor.set_data_from_numpy(values)
        return sum(client.infer("net", [tensor]).as_numpy(output.name) is not None for _ in range(asked))


def test_sighup_reads_the_file_again(tmp_path: Path) -> None:
    """With a file that is wrong, everything stays as it is. Requests are answered all the while."""
    counting_chain(tmp_path / "net.safetensors", 2, 4, 3)
    path, log = tmp_path / "serve.toml", tmp_path / "log"
    path.write_text("[models]\n" + FILE.format(slo_ms=9000))
    with process(path, log) as (server, address), ThreadPoolExecutor() as pool:
        answers = pool.submit(ask, address, 500)
        path.write_text("[models]\n" + FILE.format(slo_ms=0))
        os.kill(server.pid, signal.SIGHUP)
        wait_for(log, "ERROR the settings stay as they are: ")
        assert "[models] slo_ms = 0.0: expected at least 0.1" in log.read_text()
        path.write_text(f"[models]\n{FILE.format(slo_ms=8000)}level = 1\n[watching]\nlog_format = 'json'")
        os.kill(server.pid, signal.SIGHUP)
        wait_for(log, "log_format: ")
        lines = [json.loads(line)["message"] for line in log.read_text().splitlines() if line.startswith("{")]
        assert lines == [
            "changed: [models] slo_ms: 9000.0 -> 8000.0",
            "needs a restart: [models] level: none -> 1",
            'changed: [watching] log_format: "text" -> "json"',
        ]
        assert answers.result() == 500
        assert ask(address, 1) == 1


def test_a_signal_that_comes_early_is_not_lost(tmp_path: Path) -> None:
    """It comes while Python starts, or while the models load: the file is read again when they are ready."""
    counting_chain(tmp_path / "net.safetensors", 2, 4, 3)
    path, log = tmp_path / "serve.toml", tmp_path / "log"
    path.write_text("[models]\n" + FILE.format(slo_ms=9000))
    with (
        log.open("w") as stderr,
        subprocess.Popen([*COMMAND, str(path)], stdout=PIPE, stderr=stderr, text=True) as server,
    ):
        try:
            end_s = time.monotonic() + 60
            while not catches(server.pid, signal.SIGHUP) and time.monotonic() < end_s:
                time.sleep(0.002)
            os.kill(server.pid, signal.SIGHUP)
            assert server.stdout is not None
            assert server.stdout.readline()
            wait_for(log, "the settings are as before")
            server.terminate()
            assert server.wait(60) == 0
        finally:
            server.kill()


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler of the signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(mask >> (number - 1) & 1)


def test_sighup_ends_a_server_without_a_file(tmp_path: Path) -> None:
    """As when its terminal closes."""
    counting_chain(tmp_path / "net.safetensors", 2, 4, 3)
    command = [*COMMAND[:-1], str(tmp_path / "net.safetensors"), "--profile-cache", "off", "--threads", "1"]
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a child of nohup would inherit that it is ignored
    try:
        started = subprocess.Popen(command, stdout=PIPE, stderr=subprocess.DEVNULL, text=True)
    finally:
        signal.signal(signal.SIGHUP, before)
    with started as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline()
            os.kill(server.pid, signal.SIGHUP)
            assert server.wait(60) == -signal.SIGHUP
        finally:
            server.kill()
