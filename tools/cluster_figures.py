"""Cluster figures: the cost of Ray Serve's ingress, and the gain of a second replica. Run by .venv-ray's Python.

    .venv-ray/bin/python tools/cluster_figures.py [--calls 300] [--seconds 20]

Three parts. The plain server and the ingress with one replica answer in turn: their medians, and those of a method
without an inference, which is the way alone. Then the throughput of one replica and of two, and the levels that each of
them chose. Prints a table, and one line of JSON.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from ray_cluster import Load, cluster, deploy, infer_stub, request  # noqa: E402

from nested_sparse.proto import messages  # noqa: E402
from support import EXAMPLE  # noqa: E402

CALM_MS = 60_000.0
WARM_CALLS = 20


@contextmanager
def plain_server() -> Iterator[str]:
    """The address of `nested-sparse serve` with the same model and settings, in a process of its own."""
    flags = ["--port", "0", "--threads", "1", "--slo-ms", str(CALM_MS), "--profile-cache", "off", "--json"]
    command = [sys.executable, "-m", "nested_sparse.serving", "serve", str(EXAMPLE), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["address"]
        finally:
            process.terminate()


def timed_ms(call: Callable[[], Any]) -> tuple[float, Any]:
    """The time of one call, and its result."""
    begin_s = time.perf_counter()
    result = call()
    return (time.perf_counter() - begin_s) * 1e3, result


def overhead(plain: str, ingress: str, calls: int) -> dict[str, float]:
    """Medians in ms, of calls that take turns: an inference at level 0, its time in the server, and ServerReady."""
    found: dict[str, list[float]] = collections.defaultdict(list)
    with grpc.insecure_channel(plain) as first, grpc.insecure_channel(ingress) as second:
        channels = {"plain": first, "ingress": second}
        stubs = {name: infer_stub(channel) for name, channel in channels.items()}
        ready = {
            name: channel.unary_unary(f"/{messages.SERVICE_NAME}/ServerReady") for name, channel in channels.items()
        }
        message = request(level=0)
        for number in range(calls + WARM_CALLS):
            for name in channels:
                infer_ms, response = timed_ms(lambda name=name: stubs[name](message, timeout=60))
                ready_ms, _ = timed_ms(lambda name=name: ready[name](b"", timeout=60))
                if number >= WARM_CALLS:
                    found[f"{name}_infer"].append(infer_ms)
                    found[f"{name}_compute"].append(response.parameters["compute_us"].int64_param / 1e3)
                    found[f"{name}_queue"].append(response.parameters["queue_us"].int64_param / 1e3)
                    found[f"{name}_ready"].append(ready_ms)
    return {name: float(np.median(values)) for name, values in found.items()}


def throughput(
    address: str, seconds: float, clients: int, slo_ms: float | None
) -> tuple[float, dict[str, dict[str, int]]]:
    """Answers per second of a closed loop, and the levels by replica. slo_ms None: all at the densest level."""
    message = request(samples=8, level=-1) if slo_ms is None else request(samples=8, slo_ms=slo_ms)
    with Load(address, message, clients, 60.0) as load:
        time.sleep(seconds)
    good = [(replica, level) for _, replica, level, error in load.outcomes if error is None]
    levels: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for replica, level in good:
        levels[replica[:8]][str(level)] += 1
    return len(good) / seconds, {replica: dict(sorted(counts.items())) for replica, counts in levels.items()}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300, help="calls of each kind")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each load")
    parser.add_argument("--clients", type=int, default=6, help="calls under way in a load")
    parser.add_argument("--slo-ms", type=float, default=60.0, help="of the load whose levels are shown")
    given = parser.parse_args()
    with cluster() as address:
        deploy({"slo_ms": CALM_MS}, num_replicas=1, autoscaling_config=None)
        with plain_server() as plain:
            medians = overhead(plain, address, given.calls)
        rates = {"1": throughput(address, given.seconds, given.clients, None)[0]}
        deploy({"slo_ms": CALM_MS}, num_replicas=2, autoscaling_config=None)
        rates["2"], _ = throughput(address, given.seconds, given.clients, None)
        _, levels = throughput(address, given.seconds, given.clients, given.slo_ms)
    print(f"{'p50, ms':<24}{'plain':>10}{'ingress':>10}{'more':>10}")
    for name in ("infer", "ready", "compute", "queue"):
        first, second = medians[f"plain_{name}"], medians[f"ingress_{name}"]
        print(f"{name:<24}{first:>10.2f}{second:>10.2f}{second - first:>10.2f}")
    print(
        f"answers per second at the densest level, 8 samples: {rates['1']:.1f} of one replica, {rates['2']:.1f} of two"
    )
    for replica, counts in levels.items():
        print(f"levels of replica {replica} at {given.slo_ms:g} ms: {counts}")
    print(json.dumps({"p50_ms": medians, "answers_per_s": rates, "levels": levels, "calls": given.calls}))


if __name__ == "__main__":
    main()
