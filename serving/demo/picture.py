"""Picture: level and latency over time, elastic beside the densest fixed level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nested_sparse.errors import CheckpointError
from nested_sparse.serving.demo.open_loop import Outcome
from nested_sparse.serving.demo.plan import Plan

SIGNATURE = "nested-sparse demo"


def refuse_foreign_picture(path: Path, force: bool) -> None:
    """A picture of an earlier demo is replaced; any other file is kept unless `force`. Raises CheckpointError."""
    if path.exists() and not force and SIGNATURE.encode() not in path.read_bytes()[:4096]:
        raise CheckpointError(
            f"{path}: exists already and is not an earlier demo's picture; name another, or use --force"
        )


def draw(path: Path, plan: Plan, runs: Mapping[str, Sequence[Outcome]], level_count: int) -> None:
    """Save latency over time of the elastic and the densest fixed run, and the elastic level below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    densest = f"level {level_count - 1}"
    figure, (top, bottom) = pyplot.subplots(2, 1, figsize=(10, 6), sharex=True, height_ratios=[3, 2])
    for name, colour in ((densest, "tab:red"), ("elastic", "tab:blue")):
        answered = [outcome for outcome in runs[name] if outcome.output is not None]
        top.plot(
            [o.arrival.at_s for o in answered], [o.latency_ms for o in answered], ".", ms=3, color=colour, label=name
        )
        lost = [outcome.arrival.at_s for outcome in runs[name] if outcome.output is None]
        top.plot(lost, [1.5 * plan.slo_ms] * len(lost), "x", ms=4, color=colour, label=f"{name}: shed or expired")
    top.axhline(plan.slo_ms, color="black", lw=1, ls="--", label=f"SLO {plan.slo_ms:.0f} ms")
    top.set_yscale("log")
    top.set_ylabel("latency from schedule (ms)")
    top.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, fontsize=8)
    served = [outcome for outcome in runs["elastic"] if outcome.level is not None]
    bottom.plot([o.arrival.at_s for o in served], [o.level for o in served], ".", ms=3, color="tab:blue")
    bottom.set_yticks(range(level_count))
    bottom.set_ylabel("level served (elastic)")
    bottom.set_xlabel("time (s)")
    for phase, begin_s in plan.begin_s.items():
        for axis in (top, bottom):
            axis.axvline(begin_s, color="grey", lw=0.8)
        bottom.annotate(f" {phase}", (begin_s, level_count - 0.75), color="grey", fontsize=9)
    bottom.set_ylim(-0.5, level_count - 0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": SIGNATURE})
    pyplot.close(figure)
