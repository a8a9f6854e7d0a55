"""Kept facts: a second start asks the store, and a file with other facts, or a damaged one, is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nested_sparse.amend import store_rows
from nested_sparse.runtime.profiling.profile_store import ProfileStore
from nested_sparse.runtime.rerouting.table import RouteTable
from nested_sparse.runtime.session.session import Session
from nested_sparse.serving import kept
from nested_sparse.serving.kept import Kept
from support import EXAMPLE


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "profiles")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was measured, in order."""
    calls: list[str] = []
    joins, measure = kept.may_join, RouteTable.measure

    def may_join(session: Any) -> bool:
        calls.append("joins")
        return joins(session)

    def routes(session: Any, **options: Any) -> RouteTable:
        calls.append("routes")
        return measure(session, **options)

    monkeypatch.setattr(kept, "may_join", may_join)
    monkeypatch.setattr(RouteTable, "measure", staticmethod(routes))
    return calls


def test_a_second_start_measures_nothing(store: ProfileStore, measured: list[str]) -> None:
    """It gets the same answers; without a store, each start measures."""
    with Session(EXAMPLE, threads=1) as session:
        first = Kept(session, store, 16)
        joins, routes = first.joins(), first.routes()
        assert measured == ["joins", "routes"]
        second = Kept(session, ProfileStore(store.folder), 16)
        assert second.joins() is joins is True
        again = second.routes()
        assert again.layers == routes.layers
        np.testing.assert_array_equal(again.remaining_share, routes.remaining_share)
        np.testing.assert_array_equal(again.accuracy, routes.accuracy)
        assert measured == ["joins", "routes"]
        Kept(session, None, 16).joins()
        assert measured == ["joins", "routes", "joins"]


def test_another_mark_of_the_file_is_looked_at(tmp_path: Path, store: ProfileStore, measured: list[str]) -> None:
    """The mark is no part of the digest that the store knows the file by."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(EXAMPLE.read_bytes())
    answers = []
    for rows in ("independent", "dependent", "independent"):
        store_rows(path, rows)
        with Session(path, threads=1) as session:
            answers.append(Kept(session, store, 16).joins())
    assert answers == [True, False, True]
    assert measured == ["joins", "joins"]


@pytest.mark.parametrize(
    "routes",
    [1, [], {}, {"layers": ["a"]}, {"layers": ["a"], "shares": [[0.5]]}, {"layers": ["a"], "shares": [["x"]] * 4},
     {"layers": ["a", "b"], "shares": [[0.5, 0.9]] * 4}, {"layers": ["a"], "shares": [[float("nan")]] * 4}],
)  # fmt: skip
def test_routes_that_are_none_are_measured(store: ProfileStore, measured: list[str], routes: Any) -> None:
    with Session(EXAMPLE, threads=1) as session:
        facts = Kept(session, store, 16)
        assert facts.key is not None
        store.keep(facts.key, "routes", routes)
        assert facts.routes().level_count == 4
        assert measured == ["routes"]
        assert facts.routes().level_count == 4
        assert measured == ["routes"]
