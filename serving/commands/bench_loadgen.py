"""`nested-sparse bench loadgen`: MLPerf LoadGen's Server scenario."""

from __future__ import annotations

from pathlib import Path

import click

from .command import PATH, Number, Whole, argument
from .output import print_json, print_table


@argument("checkpoint", type=PATH, required=False, metavar="[FILE]", help="Checkpoint to serve; with --target, none.")
@click.option("--target", help="HOST:PORT of a running Open Inference Protocol server, in place of FILE.")
@click.option("--model", help="The target's model; with FILE, its stem.")
@click.option("--qps", type=Number(0.01), default=100.0, help="Queries per second, Poisson arrivals.")
@click.option("--bound-ms", type=Number(0.1), default=50.0, help="Bound of the latency, and the SLO of FILE's server.")
@click.option("--seconds", type=Number(0.1), default=60.0, help="Least duration.")
@click.option("--percentile", type=Number(0.5, 0.9999), default=0.99, help="Share of the queries within the bound.")
@click.option("--seed", type=Whole(0), default=0, help="Seed of the arrivals and of the samples.")
@click.option("as_json", "--json", is_flag=True, help="Only the JSON line.")
def loadgen(
    checkpoint: Path | None,
    target: str | None,
    model: str | None,
    qps: float,
    bound_ms: float,
    seconds: float,
    percentile: float,
    seed: int,
    as_json: bool,
) -> None:
    """A run of LoadGen's Server scenario. A query that is shed counts as late, and so does one that fails.

    The result is LoadGen-measured; it is no result of MLPerf. Needs mlcommons-loadgen.

    Example: `nested-sparse bench loadgen model.safetensors --qps 200 --bound-ms 20`
    """
    from ..bench.loadgen.run import ServerScenario, measure
    from ..bench.machine import machine_facts
    from ..bench.serving.server_process import running_server

    scenario = ServerScenario(qps, bound_ms, seconds, percentile=percentile, seed=seed)
    if (checkpoint is None) == (target is None) or (target is not None and model is None):
        raise click.BadParameter("expected FILE, or --target with --model")
    if target is not None:
        outcome = measure(target, model or "", scenario)
    else:
        assert checkpoint is not None
        with running_server(checkpoint, ("--slo-ms", str(bound_ms))) as server:
            outcome = measure(server.address, model or checkpoint.stem, scenario)
    facts = machine_facts()
    if not as_json:
        failed = {name: count for name, count in outcome.statuses.items() if name != "OK"}
        print_table(
            f"LoadGen's Server scenario, {qps:g} queries/s, {percentile:.2%} within {bound_ms:g} ms, on {facts['cpu']}",
            ("valid", "queries", "queries/s", "p50 ms", "p99 ms", "without an answer", "levels"),
            [
                (
                    "yes" if outcome.valid else "no",
                    str(outcome.queries),
                    f"{outcome.qps:.1f}",
                    f"{outcome.p50_ms:.2f}",
                    f"{outcome.p99_ms:.2f}",
                    ", ".join(f"{count} {name}" for name, count in failed.items()),
                    ", ".join(f"{level}: {count}" for level, count in outcome.levels.items()),
                )
            ],
        )
    print_json({"scenario": "Server", "target_qps": qps, "bound_ms": bound_ms, **outcome.to_json(), **facts})
