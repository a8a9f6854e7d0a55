"""Followers: the start of a server that fetches, and the facts that its metrics show."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

from fetching_device import FILE, Device, Published, wait_until
from file_server import FileServer
from prometheus_client import CollectorRegistry

from nested_sparse.serving.fetching import follower
from nested_sparse.serving.fetching.address import Address
from nested_sparse.serving.fetching.fetch_metrics import FetchMetrics
from nested_sparse.serving.fetching.followers import Followers
from nested_sparse.serving.repository.loader import Loader
from nested_sparse.serving.signature import PublicKey, signer

HEAVY = {"numpy", "onnxruntime", "grpc", "google.protobuf", "rich", "prometheus_client"}


def test_a_start_asks_for_bytes_before_it_imports_the_rest() -> None:
    """The command line, the settings and all that downloads load none of the large libraries."""
    code = (
        "import sys, nested_sparse.serving.cli, nested_sparse.serving.settings.fetched;"
        f"print({HEAVY!r} & sys.modules.keys() or '')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_a_signal_before_the_port_is_open_looks_at_once(
    server: FileServer, first: Published, tmp_path: Path, monkeypatch
) -> None:
    """The next try of itself would be in a minute."""
    for name in ("FIRST_WAIT_S", "MOST_WAIT_S"):
        monkeypatch.setattr(follower, name, 60.0)
    server.status, signals = 503, [0]
    followers = Followers([Address(server.url + FILE)], tmp_path, 1 << 30)
    followers.start()
    followers.trusting(Loader(lambda name: None))  # type: ignore[arg-type,return-value]
    waiting = threading.Thread(target=followers.wait, args=(True, lambda: signals[0]), daemon=True)
    waiting.start()
    try:
        assert wait_until(lambda: followers.followers["net"].counts.failures["server"] == 1)
        server.status = None
        assert not wait_until(lambda: len(server.asked) > 1, 0.2)
        signals[0] += 1
        waiting.join(30)
        assert not waiting.is_alive()
    finally:
        followers.close()


def test_metrics_tell_what_came_failed_and_serves(
    server: FileServer, first: Published, second: Published, failing: Published, keys: list[Path], tmp_path: Path
) -> None:
    own, public, other = keys
    first, second, failing = (
        replace(each, manifest=each.manifest.signed(signer(own))) for each in (first, second, failing)
    )
    registry = CollectorRegistry()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"nested_sparse_{name}", {"model": "net", **labels})

    def failures(reason: str) -> float:
        return value("fetch_failures_total", reason=reason) or 0.0

    server.status = 503
    with Device(tmp_path, server.url, PublicKey(public)) as device:
        registry.register(FetchMetrics({"net": device.follower}))
        assert wait_until(lambda: failures("server") > 0)
        assert value("fetch_failures_total", reason="refused") == 0.0
        for name in ("fetch_published_serial", "fetch_served_levels", "fetch_last_success_timestamp_seconds"):
            assert value(name) is None
        server.files, server.status = (
            {**first.files, f"{FILE}.manifest": first.manifest.signed(signer(other)).raw},
            None,
        )
        assert wait_until(lambda: failures("manifest") > 0)
        server.wrong_at = first.manifest.prefix_nbytes(2) + 1
        server.files = first.files
        assert wait_until(lambda: failures("wrong_bytes") > 0)
        assert wait_until(lambda: value("fetch_served_levels") == 2)
        assert (value("fetch_published_levels"), value("fetch_last_success_timestamp_seconds")) == (4, None)
        server.wrong_at = None
        assert wait_until(lambda: value("fetch_last_success_timestamp_seconds") is not None)
        assert [value(f"fetch_{which}_serial") for which in ("published", "served")] == [1, 1]
        assert value("fetch_served_levels") == 4
        assert first.manifest.nbytes < (value("fetched_bytes_total") or 0.0) <= server.sent  # some were under way
        server.files = failing.files
        device.follower.poll()
        assert wait_until(lambda: failures("refused") > 0)
        assert [value(f"fetch_{which}_serial") for which in ("published", "served")] == [3, 1]
    server.status = 503
    with Device(tmp_path, server.url, PublicKey(public)) as device:  # what is on the disk serves
        kept = CollectorRegistry()
        kept.register(FetchMetrics({"net": device.follower}))
        assert wait_until(lambda: kept.get_sample_value("nested_sparse_fetch_served_serial", {"model": "net"}) == 1)
        assert kept.get_sample_value("nested_sparse_fetch_served_levels", {"model": "net"}) == 4
