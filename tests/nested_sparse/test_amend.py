"""Amending: new statements in a file whose results stay the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from nested_sparse.amend import store_reroutes, store_rows
from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import InputError, LevelError
from nested_sparse.reroute import Reroute
from support import EXAMPLE


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(EXAMPLE.read_bytes())
    return path


def test_reroutes_are_kept_and_nothing_else_changes(copy: Path) -> None:
    """Segments and graph bit for bit, metrics as before; what was open stays readable; again replaces."""
    with Checkpoint.open(copy) as before:
        layer = before.layers[3].name
        for accuracy in (0.5, 0.75):
            store_reroutes(copy, [Reroute(3, 0, {layer: accuracy})])
        with Checkpoint.open(copy) as after:
            assert after.reroutes == (Reroute(3, 0, {layer: 0.75}),)
            assert after.levels == before.levels
            assert after.graph() == before.graph()
            for level in range(4):
                assert (after.segment(level) == before.segment(level)).all()


def test_rows_are_kept_beside_reroutes(copy: Path) -> None:
    """Each amendment leaves the other's as it is, and the bytes behind the header; None takes the mark away."""
    with Checkpoint.open(copy) as before:
        layer = before.layers[3].name
        data = bytes(before.data_prefix(4))
    store_rows(copy, "dependent")
    store_reroutes(copy, [Reroute(3, 0, {layer: 0.5})])
    for rows in ("independent", None):
        store_rows(copy, rows)
        with Checkpoint.open(copy) as after:
            assert after.rows == rows
            assert after.reroutes == (Reroute(3, 0, {layer: 0.5}),)
            assert bytes(after.data_prefix(4)) == data
    content = copy.read_bytes()
    with pytest.raises(InputError, match="expected 'independent', 'dependent' or None, got 'yes'"):
        store_rows(copy, "yes")
    assert copy.read_bytes() == content


def test_another_models_reroutes_leave_the_file_alone(copy: Path) -> None:
    """A layer or a level that is not there."""
    content = copy.read_bytes()
    with pytest.raises(InputError, match="nowhere"):
        store_reroutes(copy, [Reroute(1, 0, {"nowhere": 0.5})])
    with pytest.raises(LevelError):
        store_reroutes(copy, [Reroute(9, 0, {"stem": 0.5})])
    assert copy.read_bytes() == content
