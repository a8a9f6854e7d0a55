"""Scores: the accuracy of lowered runs, against a chain in numpy with each layer at its own level."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chain import Written, small_chain, write
from nested_sparse.amend import store_reroutes
from nested_sparse.errors import InputError
from nested_sparse.reroute import Reroute
from nested_sparse.runtime.rerouting import RouteTable, route_scores
from nested_sparse.runtime.session import Session
from support import layer_record, random_weight

NAMES = ("first", "second", "third")
PAIRS = [(1, 0), (2, 0), (2, 1)]
Samples = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return small_chain(tmp_path_factory.mktemp("scores") / "m.safetensors")


@pytest.fixture(scope="module")
def session(chain: Written) -> Iterator[Session]:
    with Session(chain.path, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def samples(chain: Written) -> Samples:
    """Two uneven batches. The classes are level 1's answers, of which each third is the lowest level's."""
    x = np.random.default_rng(8).standard_normal((90, 24)).astype(np.float32)
    classes = chain.reference(x, 1).argmax(axis=1)
    classes[::3] = chain.reference(x, 0).argmax(axis=1)[::3]
    return [(x[:50], classes[:50]), (x[50:], classes[50:])]


def share(chain: Written, samples: Samples, start: int, end: int, place: int) -> float:
    """The share of right answers with the layers from `place` on at `end`."""
    levels = [start] * place + [end] * (len(NAMES) - place)
    right = [chain.reference(x, levels).argmax(axis=1) == classes for x, classes in samples]
    return float(np.concatenate(right).mean())


def test_scores_are_those_of_the_routes(chain: Written, session: Session, samples: Samples) -> None:
    """All pairs and layers; at the first one, the lower level's own."""
    scores = route_scores(session, samples)
    assert [(each.start, each.end) for each in scores] == PAIRS
    for each in scores:
        expected = [share(chain, samples, each.start, each.end, place) for place in range(len(NAMES))]
        assert each.accuracy == dict(zip(NAMES, expected, strict=True))
        assert len(set(expected)) > 1
    assert route_scores(session, samples, cuts=("third",)) == tuple(
        Reroute(each.start, each.end, {name: each.accuracy[name] for name in ("first", "third")}) for each in scores
    )


def test_a_bound_leaves_out_the_layers_that_lose_more(session: Session, samples: Samples) -> None:
    """The layers that stay have drop and error within the bound; these 90 samples show both kinds."""
    every, kept = route_scores(session, samples), route_scores(session, samples, max_drop=0.3)
    for whole, some in zip(every, kept, strict=True):
        assert some.accuracy.items() <= whole.accuracy.items()
        assert all(some.accuracy[name] >= some.accuracy["first"] - 0.3 for name in some.accuracy)
    assert 3 < sum(len(each.accuracy) for each in kept) < sum(len(each.accuracy) for each in every)


@pytest.mark.parametrize(
    "change",
    [
        lambda classes: classes[:, None],
        lambda classes: classes[:1],
        lambda classes: classes[0],
        lambda classes: classes.astype(np.float32),
        lambda classes: classes.astype(str),
    ],
    ids=["a column", "one", "a scalar", "floats", "texts"],
)
def test_classes_of_another_shape_are_refused(session: Session, samples: Samples, change: Any) -> None:
    """numpy would compare them with every answer, and the shares would mean nothing."""
    with pytest.raises(InputError, match=r"expected class indices \(50,\), whole numbers"):
        route_scores(session, [(x, change(classes)) for x, classes in samples])


def test_a_file_that_names_no_later_layer_is_lowered_at_the_first_alone(chain: Written, tmp_path: Path) -> None:
    """That is not the same as a file without reroutes, which may be lowered everywhere."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(chain.path.read_bytes())
    for reroutes, allowed in (((), 9), ((Reroute(2, 0, {"first": 0.5}),), 3)):
        store_reroutes(path, reroutes)
        with Session(path, threads=1) as session:
            table = RouteTable.measure(session, repeats=1)
        assert int(np.isfinite(table.order).sum()) == allowed


def test_later_uses_of_a_layer_are_passed_over(tmp_path: Path) -> None:
    """A file cannot name them, so what was measured would be refused."""
    rng = np.random.default_rng(5)
    twice = layer_record(rng, random_weight(rng, "twice", 16, 16), 2)
    last = layer_record(rng, random_weight(rng, "last", 5, 16), 2)
    path = write(tmp_path / "m.safetensors", [twice, twice, last], 2).path
    with Session(path, threads=1) as session:
        (score,) = route_scores(session, [(rng.standard_normal((4, 16)).astype(np.float32), np.zeros(4, np.int64))])
    assert list(score.accuracy) == ["twice", "last"]
    store_reroutes(path, [score])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batches": []}, "expected one input and a batch or more"),
        ({"cuts": ("nowhere",)}, "cuts: no layers 'nowhere'"),
        ({"max_drop": 1}, "max_drop: expected a share below 1"),
    ],
)
def test_what_does_not_fit_is_refused(session: Session, samples: Samples, change: dict[str, Any], words: str) -> None:
    """Before anything is measured."""
    with pytest.raises(InputError, match=words):
        route_scores(session, **{"batches": samples, **change})
