"""View: a server's rates as a few lines per model for people, and as a dictionary for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from nested_sparse.excerpt import excerpt

from .rates import ModelRates, Rates
from .styled import Line, Piece, Style

BAR_CELLS = 24
MAX_NOTE = 1000
"""Characters of a note. It may quote an unknown server."""
LEVEL_COLOURS = (Style.RED, Style.YELLOW, Style.GREEN, Style.CYAN, Style.BLUE, Style.MAGENTA)


def as_dict(address: str, rates: Rates) -> dict[str, Any]:
    """The rates, ready for JSON; null where the server does not give a value."""
    return {"address": address, **asdict(rates)}


def unreachable_dict(address: str, reason: str) -> dict[str, Any]:
    """The same keys, for a server that does not answer."""
    return as_dict(address, Rates("", "unreachable", 0.0, note=reason))


def as_text(address: str, rates: Rates, lost: str = "") -> list[Line]:
    """Lines that fit in 80 columns. lost: the reason why no newer reading exists; "" while there is one."""
    server, state = excerpt(rates.server), excerpt(rates.state)
    heading = Line.of(f"{excerpt(address)}  {server}  {state}  last {rates.seconds:.1f} s", Style.BOLD)
    models = [line for model in rates.models for line in _model(model)]
    if lost:
        models = [line.styled(Style.DIM) for line in models]
    # above the models, of which a small terminal shows the first ones only
    loss = [Line.of(excerpt(lost, MAX_NOTE), Style.BOLD, Style.RED)] if lost else []
    note = [Line.of(excerpt(rates.note, MAX_NOTE), Style.DIM)] if rates.note else []
    return [heading, *loss, *models, *note]


def _model(model: ModelRates) -> list[Line]:
    rows = _rows(model)
    longest = max(len(name) for name, _ in rows)
    grid = [Line((Piece(f"  {name:<{longest}}  "), *pieces), hanging=longest + 4) for name, pieces in rows]
    return [Line(), Line.of(f"{excerpt(model.name)}  {excerpt(model.state)}"), *grid]


def _rows(model: ModelRates) -> list[tuple[str, tuple[Piece, ...]]]:
    """The name and the text of each row that has at least one known value."""
    asked = [
        f"{model.per_s:.1f}/s",
        _share("in time", model.in_time_share),
        _share("answered", model.answered_share),
    ]
    missed = [_count("late", model.late), _count("shed", model.shed), _count("expired", model.expired)]
    queue = [_times(model.queue_ms, model.mean_queue_ms), _count("waiting", model.queue_length)]
    slowdown = "" if model.slowdown is None else f"slowdown {model.slowdown:.2f}"
    compute = [_times(model.compute_ms, model.mean_compute_ms), slowdown]
    rows: list[tuple[str, tuple[Piece, ...]]] = [
        (name, (Piece("   ".join(filter(None, parts))),))
        for name, parts in (("requests", asked), ("missed", missed), ("queue", queue), ("compute", compute))
        if any(parts)
    ]
    if model.level_shares:
        rows.insert(1, ("levels", level_bar(model.level_shares)))
    return rows


def level_bar(shares: dict[int, float]) -> tuple[Piece, ...]:
    """A bar with a colour for each level, sparsest first, its cells by share of the answers; and the shares as text."""
    bar = []
    filled, total = 0, 0.0
    for level, share in shares.items():
        total += share
        cells = round(total * BAR_CELLS) - filled
        filled += cells
        bar.append(Piece("█" * cells, (LEVEL_COLOURS[level % len(LEVEL_COLOURS)],)))
    figures = "  ".join(f"{level}: {100 * share:.0f} %" for level, share in shares.items())
    return (*bar, Piece(f"  {figures}"))


def _times(percentiles: tuple[float, float] | None, mean_ms: float | None) -> str:
    if percentiles is not None:
        return f"p50 {percentiles[0]:.2f} ms   p99 {percentiles[1]:.2f} ms"
    return "" if mean_ms is None else f"mean {mean_ms:.2f} ms"


def _share(name: str, share: float | None) -> str:
    return "" if share is None else f"{name} {100 * share:.1f} %"


def _count(name: str, count: int | None) -> str:
    return "" if count is None else f"{count} {name}"
