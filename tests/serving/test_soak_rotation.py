"""Soak under change: certificates, tokens, versions and models change while clients ask, come, go, and send nonsense.

A short form, one change of each kind, is in `make test`. `make test-slow` runs the full one for NESTED_SPARSE_SOAK_S
seconds (600; an hour is 3600), at 80 % of what the same clients get without pauses, and looks at the resident memory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from certificates import Authority
from clients import Askers, wait_for

from nested_sparse.proto import messages
from nested_sparse.serving.bench.serving.server_process import running_server
from support import EXAMPLE

SOAK_S = float(os.environ.get("NESTED_SPARSE_SOAK_S", "600"))
LOAD = 0.8
WARM_UP_SHARE = 0.2
WARM_UP_SWAPS = 60
"""Versions after which the memory of old ones, which the allocator keeps, is as large as it gets (measured: 50)."""
THREADS = 4
CALLS_PER_CONNECTION = 200
NONSENSE = (b"", b"\x00", b"\xff" * 300, messages.ModelInferRequest(model_name="none").SerializeToString())
REFUSALS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
"""Statuses of nonsense, with a token that is in force."""
IMAGE = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)


def valid() -> bytes:
    request = messages.ModelInferRequest(model_name="net")
    request.inputs.add(name="input", datatype="FP32", shape=IMAGE.shape)
    request.raw_input_contents.append(IMAGE.tobytes())
    return request.SerializeToString()


def bytes_back(data: bytes) -> bytes:
    return data


class Site:
    """A server with TLS, tokens and a folder of models, and all that changes about it."""

    def __init__(self, folder: Path) -> None:
        self.authority, self.folder = Authority(), folder
        self.cert, self.key = self.authority.issue(folder)
        self.token_file, self.models = folder / "tokens", folder / "models"
        self.token = "token-0-" + "x" * 20
        self._lock, self._under_way = threading.Lock(), Counter[str]()
        self.address = ""
        self._numbers = itertools.count(2)
        self._write_tokens(self.token)
        self._put("net", 1)
        self._put("other", 1)

    @contextlib.contextmanager
    def started(self, *options: str) -> Iterator[int]:
        """Serve; gives the process id."""
        security = ["--tls-cert", self.cert, "--tls-key", self.key, "--token-file", self.token_file]
        # the models are all from the folder: the file is there because running_server() names one
        with running_server(EXAMPLE, ["--model-dir", str(self.models), *map(str, security), *options]) as server:
            self.address = server.address
            yield server.pid

    @contextlib.contextmanager
    def calling(self, method: str) -> Iterator[Callable[..., grpc.Future]]:
        """A new connection, and calls of one method by it that take and give bytes."""
        credentials = grpc.ssl_channel_credentials(self.authority.pem)
        own = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.secure_channel(self.address, credentials, own) as channel:
            rpc = channel.unary_unary(f"/{messages.SERVICE_NAME}/{method}", bytes_back, bytes_back)
            yield lambda data, token: rpc.future(data, 60.0, (("authorization", f"Bearer {token}"),))

    def status(self, method: str, data: bytes = b"", token: str = "") -> grpc.StatusCode:
        """The status of one call on a connection of its own; one that the front refuses for its load is made again."""
        for _ in range(100):
            with self.calling(method) as call:
                done = call(data, token or self.token)
                done.exception()
                code = done.code()
            if code is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                break
            time.sleep(0.05)
        return code

    @contextlib.contextmanager
    def asking(self) -> Iterator[str]:
        """The token in force, which does not go meanwhile."""
        with self._lock:
            token = self.token
            self._under_way[token] += 1
        try:
            yield token
        finally:
            with self._lock:
                self._under_way[token] -= 1

    def changes(self) -> tuple[Callable[[], None], ...]:
        """Every kind of change; each checks that it took place."""
        return (self.rotate_token, self.rotate_certificate, self.swap_version, self.unload_and_load, self.be_refused)

    def rotate_token(self) -> None:
        """A new token comes beside the old one; then the old one goes."""
        old, new = self.token, f"token-{next(self._numbers)}-" + "x" * 20
        self._write_tokens(old, new)
        assert wait_for(lambda: self.status("ServerMetadata", token=new) is grpc.StatusCode.OK)
        with self._lock:
            self.token = new
        assert wait_for(lambda: not self._under_way[old])
        self._write_tokens(new)
        assert wait_for(lambda: self.status("ServerMetadata", token=old) is grpc.StatusCode.UNAUTHENTICATED)

    def rotate_certificate(self) -> None:
        """A new certificate and key; connections that are open stay."""
        before = self.shown_certificate()
        self.authority.issue(self.folder)
        assert wait_for(lambda: self.shown_certificate() != before)

    def swap_version(self) -> None:
        """A new version takes the place of the old one, whose file goes."""
        version = next(self._numbers)
        self._put("net", version)
        load = messages.RepositoryModelLoadRequest(model_name="net").SerializeToString()
        assert self.status("RepositoryModelLoad", load) is grpc.StatusCode.OK
        for path in (self.models / "net").iterdir():
            if path.name != str(version):
                shutil.rmtree(path)

    def unload_and_load(self) -> None:
        """Another model goes and comes back."""
        ready = messages.ModelMetadataRequest(name="other").SerializeToString()
        for method, after in (("RepositoryModelUnload", "NOT_FOUND"), ("RepositoryModelLoad", "OK")):
            change = messages.RepositoryModelLoadRequest(model_name="other").SerializeToString()
            assert self.status(method, change) is grpc.StatusCode.OK
            assert self.status("ModelMetadata", ready).name == after

    def be_refused(self) -> None:
        """Nonsense, and a token that never was."""
        for data in NONSENSE:
            assert self.status("ModelInfer", data) in REFUSALS
        assert self.status("ModelInfer", valid(), token="y" * 30) is grpc.StatusCode.UNAUTHENTICATED

    def shown_certificate(self) -> str:
        """The certificate that a new connection is shown."""
        host, _, port = self.address.rpartition(":")
        return ssl.get_server_certificate((host, int(port)))

    def _write_tokens(self, *tokens: str) -> None:
        fresh = self.token_file.with_suffix(".new")
        fresh.touch(0o600)
        rights = "inference,reading,administration"
        fresh.write_text("".join(f"client{i} {rights} {token}\n" for i, token in enumerate(tokens)))
        fresh.rename(self.token_file)

    def _put(self, model: str, version: int) -> None:
        path = self.models / model / str(version) / "model.safetensors"
        path.parent.mkdir(parents=True)
        shutil.copy(EXAMPLE, path)


class Clients(Askers):
    """They ask the site at `rate_per_s` in all, on connections that they renew, and cancel each tenth call."""

    def __init__(self, site: Site, rate_per_s: float) -> None:
        super().__init__(THREADS)
        self.statuses: Counter[str] = Counter()
        self._site, self._pause_s = site, THREADS / rate_per_s

    def ask(self, number: int) -> None:
        request, rng = valid(), np.random.default_rng(number)
        due_s = time.perf_counter()
        while not self.stop.is_set():
            with self._site.calling("ModelInfer") as call:
                for count in range(CALLS_PER_CONNECTION):
                    with self._site.asking() as token:
                        done = call(request, token)
                        if count % 10 == 9 and done.cancel():
                            continue  # its end may be either
                        done.exception()
                    self.statuses[done.code().name] += 1
                    due_s = max(due_s + float(rng.exponential(self._pause_s)), time.perf_counter() - 1.0)
                    if self.stop.wait(max(0.0, due_s - time.perf_counter())):
                        break


def change_under_load(site: Site, pid: int, seconds: float, rate_per_s: float) -> tuple[Counter[str], list[int], int]:
    """Statuses of the valid calls, resident bytes after each change, and the number of changes."""
    process, resident = psutil.Process(pid), []
    end_s = time.perf_counter() + seconds
    with Clients(site, rate_per_s) as clients:
        for change in itertools.cycle(site.changes()):
            change()
            resident.append(process.memory_info().rss)
            if time.perf_counter() >= end_s and len(resident) >= len(site.changes()):
                break
    return clients.statuses, resident, len(resident)


def test_everything_changes_under_load_and_no_valid_call_fails(tmp_path: Path) -> None:
    """Each kind of change at least once; only what was sent to be refused is refused."""
    site = Site(tmp_path)
    with site.started("--threads", "1", "--slo-ms", "60000") as pid:
        statuses, _, changes = change_under_load(site, pid, 0.0, 40.0)
    assert set(statuses) == {"OK"}, statuses
    assert statuses["OK"] > changes


@pytest.mark.slow
def test_long_change_under_load_leaks_nothing(tmp_path: Path) -> None:
    """At 80 % of the clients' own peak: at most 0.5 % are shed, nothing else fails, and the memory stays flat."""
    site = Site(tmp_path)
    with site.started("--threads", "1", "--slo-ms", "1000") as pid:
        with Clients(site, 1e6) as clients:
            time.sleep(5.0)
        peak_per_s = clients.statuses["OK"] / 5.0
        with Clients(site, LOAD * peak_per_s):
            for _ in range(WARM_UP_SWAPS):
                site.swap_version()
                site.unload_and_load()
        statuses, resident, changes = change_under_load(site, pid, SOAK_S, LOAD * peak_per_s)
    settled = np.array(resident[int(WARM_UP_SHARE * len(resident)) :]) / 2**20
    tenth = max(1, len(settled) // 10)
    first, last = float(np.median(settled[:tenth])), float(np.median(settled[-tenth:]))
    print(f"peak {peak_per_s:.0f}/s, {changes} changes, {dict(statuses)}, RSS {first:.1f} -> {last:.1f} MiB")
    assert set(statuses) <= {"OK", "RESOURCE_EXHAUSTED"}, statuses
    assert statuses["OK"] >= 0.995 * sum(statuses.values()), statuses
    assert last <= 1.02 * first
