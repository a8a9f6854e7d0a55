"""View: styles and layout of the text."""

from __future__ import annotations

import pytest

from nested_sparse.serving.top.rates import ModelRates, Rates
from nested_sparse.serving.top.styled import Style
from nested_sparse.serving.top.view import BAR_CELLS, LEVEL_COLOURS, as_text, level_bar

NET = ModelRates("net", "ready", 20.0, 1.0, 0.5, 2.0, 1.0, {0: 0.5, 3: 0.5}, slowdown=1.5, queue_length=2)
RATES = Rates("server 1", "ready", 2.0, (NET,), "a note")


def test_the_layout_in_80_columns() -> None:
    """A heading; a loss, which a small terminal shows too; an empty line, the name and a grid for each model; notes."""
    assert [line.plain() for line in as_text("h:1", RATES, "gone")] == [
        "h:1  server 1  ready  last 2.0 s",
        "gone",
        "",
        "net  ready",
        "  requests  20.0/s   in time 100.0 %   answered 100.0 %",
        "  levels    ████████████████████████  0: 50 %  3: 50 %",
        "  queue     mean 0.50 ms   2 waiting",
        "  compute   mean 2.00 ms   slowdown 1.50",
        "a note",
    ]


def test_the_grid_is_folded_under_its_second_column() -> None:
    """The first column of the further rows is empty."""
    rows = [row.plain() for line in as_text("h:1", RATES)[3:5] for row in line.folded(30)]
    assert rows == [
        "  requests  20.0/s   in time",
        "            100.0 %   answered",
        "            100.0 %",
        "  levels    ██████████████████",
        "            ██████  0: 50 %",
        "            3: 50 %",
    ]


@pytest.mark.parametrize("lost", ["", "gone"])
def test_the_styles_of_a_text(lost: str) -> None:
    """The heading is bold, the note dim. The lines of models are dim while they are stale, and the reason bold red."""
    heading, *reasons, space, _, _, _, _, _, note = as_text("h:1", RATES, lost)
    model = as_text("h:1", RATES, lost)[-6:-1]
    assert space.plain() == ""
    assert {piece.styles for piece in heading.pieces} == {(Style.BOLD,)}
    assert {piece.styles for piece in note.pieces} == {(Style.DIM,)}
    assert len(model) == 5
    assert all((Style.DIM in piece.styles) == bool(lost) for line in model for piece in line.pieces)
    assert [line.ansi() for line in reasons] == (["\x1b[1;31mgone\x1b[0m"] if lost else [])


def test_the_bar_has_a_colour_for_each_level() -> None:
    """Its cells are shared out with no cell left; a seventh level has the first one's colour."""
    bar = level_bar({0: 0.3, 3: 0.3, 6: 0.4})
    assert [piece.styles for piece in bar] == [(LEVEL_COLOURS[0],), (LEVEL_COLOURS[3],), (LEVEL_COLOURS[0],), ()]
    assert [len(piece.text) for piece in bar[:3]] == [7, 7, 10]
    assert sum(piece.text.count("█") for piece in bar) == BAR_CELLS
    assert LEVEL_COLOURS == (Style.RED, Style.YELLOW, Style.GREEN, Style.CYAN, Style.BLUE, Style.MAGENTA)
