"""View: a server's rates as a few lines per model for people, and as a dictionary for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from nested_sparse.excerpt import excerpt

from .rates import ModelRates, Rates

BAR_CELLS = 24
MAX_NOTE = 1000
"""Characters of a note. It may quote an unknown server."""
LEVEL_COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")


def as_dict(address: str, rates: Rates) -> dict[str, Any]:
    """The rates, ready for JSON; null where the server does not give a value."""
    return {"address": address, **asdict(rates)}


def unreachable_dict(address: str, reason: str) -> dict[str, Any]:
    """The same keys, for a server that does not answer."""
    return {"address": address, "state": "unreachable", "note": reason, "models": []}


def as_text(address: str, rates: Rates, lost: str = "") -> Group:
    """Lines that fit in 80 columns. lost: the reason why no newer reading exists; "" while there is one."""
    server, state = excerpt(rates.server), excerpt(rates.state)
    heading = Text(f"{address}  {server}  {state}  last {rates.seconds:.1f} s", style="bold")
    models = [each for model in rates.models for each in _model(model, "dim" if lost else "")]
    notes = [
        Text(excerpt(note, MAX_NOTE), style=style) for note, style in ((rates.note, "dim"), (lost, "bold red")) if note
    ]
    return Group(heading, *models, *notes)


def _model(model: ModelRates, style: str) -> tuple[Text, Table]:
    grid = Table.grid(padding=(0, 2), pad_edge=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, line in _lines(model):
        grid.add_row(name, line, style=style)
    return Text(f"\n{excerpt(model.name)}  {excerpt(model.state)}", style=style), grid


def _lines(model: ModelRates) -> list[tuple[str, str | Text]]:
    """The lines with at least one known value."""
    asked = [
        f"{model.per_s:.1f}/s",
        _share("in time", model.in_time_share),
        _share("answered", model.answered_share),
    ]
    missed = [_count("late", model.late), _count("shed", model.shed), _count("expired", model.expired)]
    queue = [_times(model.queue_ms, model.mean_queue_ms), _count("waiting", model.queue_length)]
    slowdown = "" if model.slowdown is None else f"slowdown {model.slowdown:.2f}"
    compute = [_times(model.compute_ms, model.mean_compute_ms), slowdown]
    lines: list[tuple[str, str | Text]] = [
        (name, "   ".join(filter(None, parts)))
        for name, parts in (("requests", asked), ("missed", missed), ("queue", queue), ("compute", compute))
        if any(parts)
    ]
    if model.level_shares:
        lines.insert(1, ("levels", level_bar(model.level_shares)))
    return lines


def level_bar(shares: dict[int, float]) -> Text:
    """A bar with a colour for each level, sparsest first, its cells by share of the answers; and the shares as text."""
    bar = Text()
    filled, total = 0, 0.0
    for level, share in shares.items():
        total += share
        cells = round(total * BAR_CELLS) - filled
        filled += cells
        bar.append("█" * cells, style=LEVEL_COLOURS[level % len(LEVEL_COLOURS)])
    figures = "  ".join(f"{level}: {100 * share:.0f} %" for level, share in shares.items())
    return bar.append(f"  {figures}")


def _times(percentiles: tuple[float, float] | None, mean_ms: float | None) -> str:
    if percentiles is not None:
        return f"p50 {percentiles[0]:.2f} ms   p99 {percentiles[1]:.2f} ms"
    return "" if mean_ms is None else f"mean {mean_ms:.2f} ms"


def _share(name: str, share: float | None) -> str:
    return "" if share is None else f"{name} {100 * share:.1f} %"


def _count(name: str, count: int | None) -> str:
    return "" if count is None else f"{count} {name}"
