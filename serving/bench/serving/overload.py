"""Overload: what becomes of requests that come faster than a server's front end can take them.

`python -m nested_sparse.serving.bench.serving.overload FILE` measures a server of its own; with
`--target ADDRESS MODEL`, once or several times, servers that are up already, in turns. First the peak is found, in a
closed loop of a few callers; then an open loop offers 1.5 times that. It prints a table of medians over the rounds, and
one JSON line with every round.

The clients run on the same cores and take about as much of them as the server does: absolute rates are those of this
machine with them on it, ratios are what can be compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from ...commands.output import print_json, print_table
from ..machine import machine_facts
from .raw_client import RawCall, drive
from .server_process import running_server

PROCESSES, CALLERS = 2, 8


@dataclass(frozen=True, slots=True)
class Round:
    """One turn of one server.

    peak_per_s: answers in time in the closed loop. offered, answered, refused, unhinted, failed: per second of the open
    one; unhinted: refused without saying when to try again; failed: all other statuses. in_time: share of the answered.
    """

    peak_per_s: float
    offered_per_s: float
    answered_per_s: float
    in_time: float
    refused_per_s: float
    unhinted_per_s: float
    failed_per_s: float
    p50_ms: float
    p99_ms: float

    @property
    def of_peak(self) -> float:
        """Share of the peak that is answered under overload, late answers included."""
        return self.answered_per_s / self.peak_per_s if self.peak_per_s else 0.0


def measure(address: str, model: str, slo_ms: float, load: float, seconds: float) -> Round:
    """The peak, then `load` times as much."""
    closed = drive(address, model, seconds, callers=CALLERS, processes=PROCESSES)
    peak_per_s = sum(call.status == "OK" and call.latency_ms <= slo_ms for call in closed) / seconds
    calls = drive(address, model, seconds, rate_per_s=max(1.0, load * peak_per_s), processes=PROCESSES)
    return round_of(calls, peak_per_s, slo_ms, seconds)


def round_of(calls: Sequence[RawCall], peak_per_s: float, slo_ms: float, seconds: float) -> Round:
    """What became of the calls of an open loop that took `seconds`."""
    answered_ms = sorted(call.latency_ms for call in calls if call.status == "OK")
    refused = [call for call in calls if call.status == "RESOURCE_EXHAUSTED"]
    count = len(answered_ms)
    return Round(
        peak_per_s,
        len(calls) / seconds,
        count / seconds,
        sum(ms <= slo_ms for ms in answered_ms) / count if count else 0.0,
        len(refused) / seconds,
        sum(not call.hinted for call in refused) / seconds,
        (len(calls) - count - len(refused)) / seconds,
        answered_ms[count // 2] if count else 0.0,
        answered_ms[99 * count // 100] if count else 0.0,
    )


def main(arguments: Sequence[str]) -> None:
    """As a command."""
    parser = argparse.ArgumentParser(description="A server's front end at more than it can do.")
    parser.add_argument("file", type=Path, nargs="?", help="checkpoint that a server of one's own serves")
    parser.add_argument("--target", nargs=2, action="append", default=[], metavar=("ADDRESS", "MODEL"))
    parser.add_argument("--slo-ms", type=float, default=20.0, help="default 20; one's own server takes it as its SLO")
    parser.add_argument("--load", type=float, default=1.5, help="times the peak; default 1.5")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each loop; default 3")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if (options.file is None) == (not options.target):
        parser.error("expected a checkpoint to serve, or servers that are up with --target")
    with ExitStack() as stack:
        targets = [tuple(each) for each in options.target]
        if not targets:
            served = running_server(options.file, ["--slo-ms", str(options.slo_ms), "--threads", "1"])
            targets = [(stack.enter_context(served).address, options.file.stem)]
        rounds: dict[str, list[Round]] = {address: [] for address, _ in targets}
        for _ in range(options.rounds):
            for address, model in targets:
                rounds[address].append(measure(address, model, options.slo_ms, options.load, options.seconds))
    _report(rounds, options.slo_ms, options.load)


def _report(rounds: dict[str, list[Round]], slo_ms: float, load: float) -> None:
    columns = ("server", "peak/s", "offered/s", "answered/s", "of peak", "in time %", "p50 ms", "p99 ms")
    rows = []
    for address, each in rounds.items():
        names = ("peak_per_s", "offered_per_s", "answered_per_s", "of_peak", "in_time", "p50_ms", "p99_ms")
        median = {name: statistics.median(getattr(one, name) for one in each) for name in names}
        figures = [median[name] * (100 if name == "in_time" else 1) for name in names]
        unhinted, failed = (sum(getattr(one, name) for one in each) for name in ("unhinted_per_s", "failed_per_s"))
        rows.append((address, *figures, unhinted / len(each), failed / len(each)))
    title = f"{load:g} times the peak, SLO {slo_ms:g} ms, medians; clients on the same cores"
    print_table(title, (*columns, "refused without hint/s", "failed/s"), rows)
    facts = {"slo_ms": slo_ms, "load": load, **machine_facts()}
    print_json({**facts, "rounds": {address: [asdict(one) for one in each] for address, each in rounds.items()}})


if __name__ == "__main__":
    main(sys.argv[1:])
