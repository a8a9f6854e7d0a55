"""`serve URL`: a whole server over a slow link, under load, killed, and without its file server."""

from __future__ import annotations

import json
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from clients import Askers, tensor, triton, wait_for
from fetching_device import FILE, SAMPLE, Published, changed_densest
from file_server import PIECE_NBYTES, FileServer
from serve_process import started

import chain
from nested_sparse.serving.fetching.publication import publish
from nested_sparse.serving.signature import signer
from nested_sparse.slice import slice_checkpoint
from support import layer_record, random_weight

RATE = 4.0 * PIECE_NBYTES
"""Of a server that sends a little, four times a second."""
OPTIONS = ("--max-batch", "1")
"""Fewer latencies to measure, at each start."""


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """OPTIONS, and latencies that the next start of the same version takes over."""
    return *OPTIONS, "--profile-cache", tmp_path_factory.mktemp("profiles")


class Clients(Askers):
    """They ask all the time. levels: how many levels each version had, in the order in which they answered."""

    def __init__(self, address: str, *published: Published) -> None:
        super().__init__(2)
        self._address, self._published = address, published
        self.levels: list[int] = []
        self.errors: list[str] = []
        self.models: set[int] = set()

    def ask(self, _: int) -> None:
        with triton.InferenceServerClient(self._address) as client:
            while not self.stop.is_set():
                try:
                    self._ask(client)
                except Exception as error:
                    self.errors.append(str(error))
                time.sleep(0.03)

    def _ask(self, client: Any) -> None:
        answer = client.infer("net", [tensor(SAMPLE["input"], "input")], parameters={"level": -1})
        level = answer.get_response().parameters["level"].int64_param
        output = answer.as_numpy("output")
        fitting = [index for index, each in enumerate(self._published) if np.array_equal(each.answers[level], output)]
        if not fitting:
            self.errors.append(f"a wrong answer of level {level}")
        self.models.update(fitting[:1])
        if level not in self.levels:
            self.levels.append(level)


def test_a_server_rises_is_updated_under_load_and_comes_back(
    first: Published, second: Published, keys: list[Path], tmp_path: Path, options: tuple[object, ...]
) -> None:
    """No request fails, no answer is wrong; killed in an update, it answers as before, and then as the new model.

    At the second start a file server that sends a byte now and then holds the other model up no longer than its time.
    """
    own, public, _ = keys
    first, second = (replace(each, manifest=each.manifest.signed(signer(own))) for each in (first, second))
    with FileServer(first.files) as server:
        at = len(first.manifest.raw) + first.manifest.prefix_nbytes(1)
        server.trigger = (at, lambda: setattr(server, "stalled", True))
        kept = ("--fetch-dir", tmp_path / "kept", "--metrics-port", "0")
        arguments = (server.url + FILE, *kept, "--check-signature", public)
        with started(*arguments, *options) as (address, process), Clients(address, first, second) as clients:
            assert wait_for(lambda: clients.levels == [0])
            server.stalled = False
            assert wait_for(lambda: 3 in clients.levels)
            server.files = second.files
            server.trigger = (server.sent + 200_000, process.kill)
            process.send_signal(signal.SIGHUP)
            process.wait(60)
            clients.stop.set()
        assert clients.levels == sorted(clients.levels)
        wrong = [error for error in clients.errors if "wrong" in error]
        assert wrong == []
        assert clients.models == {0}
        server.stalled = True
        as_slow = {path.replace("net", "slow"): content for path, content in first.files.items()}
        with (
            FileServer(dict.fromkeys(as_slow, b"0"), endless=True, rate=RATE) as slow,
            started(*arguments, slow.url + "/slow.safetensors", "--fetch-timeout-s", "1", *options) as (address, _),
            Clients(address, first, second) as clients,
            triton.InferenceServerClient(address) as client,
        ):
            assert wait_for(lambda: clients.models == {0})
            assert not client.is_model_ready("slow")
            slow.endless, slow.rate = False, 0.0
            slow.files = as_slow
            assert wait_for(lambda: client.is_model_ready("slow"))
            server.stalled = False
            assert wait_for(lambda: clients.models == {0, 1})
            assert wait_for(lambda: 'nested_sparse_fetch_served_serial{model="net"} 2.0' in metrics(address))
        assert clients.errors == []


@pytest.mark.slow
def test_figures_of_a_model_of_15_mb(tmp_path: Path) -> None:
    """Prints the times until the first answer over a link of 1 MB/s, and the bytes of an update; asserts the bytes."""
    options = (*OPTIONS, "--profile-cache", "off")
    rng = np.random.default_rng(0)
    weights = [random_weight(rng, f"layer{at}", 1024, 1024, densities=(0.05, 0.2, 0.54)) for at in range(6)]
    records = [
        replace(layer_record(rng, weight, 3), norms=np.full((3, 2, 1024), 0.05, np.float32)) for weight in weights
    ]
    path = chain.write(tmp_path / "net.safetensors", records, 3).path
    x = tensor(rng.standard_normal((1, 1024)).astype(np.float32), "input")
    _, manifest = publish(path, serial=1)
    slice_checkpoint(path, 1, tmp_path / "local.safetensors")
    figures: dict[str, Any] = {"file_nbytes": manifest.nbytes, "level_0_nbytes": manifest.prefix_nbytes(1)}

    def first_answer_s(begin_s: float, address: str, name: str) -> float:
        with triton.InferenceServerClient(address) as client:
            client.infer(name, [x])
        return time.monotonic() - begin_s

    files = {FILE: path.read_bytes(), f"{FILE}.manifest": manifest.raw}
    figures["local_slice_s"], figures["over_the_link_s"], figures["from_first_request_s"] = [], [], []
    for turn in range(3):
        begin_s = time.monotonic()
        with started(tmp_path / "local.safetensors", *options) as (address, _):
            figures["local_slice_s"].append(round(first_answer_s(begin_s, address, "local"), 2))
        with FileServer(dict(files), rate=1e6) as server:
            begin_s = time.monotonic()
            with started(server.url + FILE, "--fetch-dir", tmp_path / f"kept{turn}", *options) as (address, process):
                figures["over_the_link_s"].append(round(first_answer_s(begin_s, address, "net"), 2))
                figures["from_first_request_s"].append(round(time.monotonic() - server.first_s, 2))
                if turn < 2:
                    process.kill()
                    process.wait()
                    continue
                with triton.InferenceServerClient(address) as client:
                    assert wait_for(lambda: "2" in levels_of(client), 200)
                server.count_anew()
                changed_densest(path, path)
                _, second = publish(path, serial=2)
                server.files = {FILE: path.read_bytes(), f"{FILE}.manifest": second.raw}
                with triton.InferenceServerClient(address) as client:
                    before = client.get_model_metadata("net").versions
                    process.send_signal(signal.SIGHUP)
                    assert wait_for(lambda old=before: client.get_model_metadata("net").versions != old, 200)
                figures["update_nbytes"] = server.sent
                figures["densest_segment_nbytes"] = second.pieces[-1].nbytes
    figures["update_share"] = round(figures["update_nbytes"] / figures["densest_segment_nbytes"], 4)
    print(json.dumps(figures))
    assert figures["update_share"] <= 1.05


def metrics(address: str) -> str:
    """The Prometheus text of the server, at the port that it names."""
    with triton.InferenceServerClient(address) as client:
        (named,) = re.findall(r"prometheus_metrics\((\d+)\)", " ".join(client.get_server_metadata().extensions))
    with urlopen(f"http://127.0.0.1:{named}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def levels_of(client: Any) -> str:
    """The level that answers when the densest is asked for."""
    x = tensor(np.zeros((1, 1024), np.float32), "input")
    return str(client.infer("net", [x], parameters={"level": -1}).get_response().parameters["level"].int64_param)
