"""Reference: an answer is compared with the result of its level."""

from __future__ import annotations

import numpy as np
import pytest

from nested_sparse.runtime import Session
from nested_sparse.runtime.rerouting.guard import RouteGuard
from nested_sparse.runtime.rerouting.table import RouteTable
from nested_sparse.runtime.session import Lowering
from nested_sparse.serving.bench.serving.open_loop import Arrival, Outcome
from nested_sparse.serving.bench.serving.reference import Reference, agrees, make_reference, right_share
from nested_sparse.serving.bench.serving.workload import random_workload

EXPECTED = [[np.array([[1.0, 2.0], [4.0, 3.0]])], [np.array([[2.0, 1.0], [4.0, 3.0]])]]
LABELS = [np.array([1, 0])]


def answer(output, level, **more):
    return Outcome(Arrival(0.0, 0), "ok", 5.0, level, output, **more)


def test_an_answer_of_another_level_than_it_names_is_wrong():
    """Level 1's output is right as level 1's, wrong as level 0's; a level that does not exist is wrong too."""
    reference = Reference(EXPECTED, LABELS, [])
    output = EXPECTED[1][0] * (1 + 5e-5)
    assert reference.grade(answer(output, 1)).check == "right"
    assert reference.grade(answer(output, 0)).check == "wrong"
    assert reference.grade(answer(output, 2)).check == "wrong"
    assert reference.grade(answer(output, -1)).check == "wrong"
    assert reference.grade(answer(output, None)).check == "unverified"
    assert reference.grade(answer(None, None)).check == ""


def test_a_lowered_answer_is_compared_with_a_run_lowered_there():
    """By item, both levels and the layer; where this runtime cannot make one, it is unverified and never right."""
    lowered = np.array([[9.0, 1.0], [1.0, 9.0]])
    known = Reference(EXPECTED, LABELS, [], {(0, 1, 0, "fc"): lowered}.get)
    assert known.grade(answer(lowered, 0, lowering=Lowering(1, "fc", 1, None))).check == "right"
    assert known.grade(answer(EXPECTED[0][0], 0, lowering=Lowering(1, "fc", 1, None))).check == "wrong"
    twice = Lowering(2, "fc", 1, None)
    assert known.grade(answer(lowered, 0, lowering=twice)).check == "unverified"
    unknown = Reference(EXPECTED, LABELS, [])
    assert unknown.grade(answer(lowered, 0, lowering=Lowering(1, "fc", 1, None))).check == "unverified"


def test_a_lowered_run_of_the_model_is_verified_by_force(checkpoint):
    """A run lowered at the second layer agrees with one lowered there, not at the first, nor at one that is none."""
    workload = random_workload(checkpoint, seed=3)
    with Session(checkpoint, threads=1) as session:
        reference = make_reference(workload, session)
        table = RouteTable.measure(session, repeats=1)
        guard = RouteGuard(table)
        guard.force(1, 0, table.layers[1])
        output = session.run(workload.items[2], 1, guard=guard)["output"]
        assert not agrees(output, reference.expected[0][2])
        checks = {
            layer: reference.grade(
                Outcome(Arrival(0, 2), "ok", 1.0, 0, output, lowering=Lowering(1, layer, 1, None))
            ).check
            for layer in (*table.layers, "nonsense")
        }
    assert checks == {table.layers[0]: "wrong", table.layers[1]: "right", "nonsense": "wrong"}


def test_the_score_is_by_labels_else_as_stated():
    """The score uses labels, else the response's accuracy, else the file's for that level, else 1."""
    half = EXPECTED[1][0]
    assert Reference(EXPECTED, LABELS, [0.1, 0.2]).grade(answer(half, 1)).score == 0.5
    assert Reference(EXPECTED, None, [0.1, 0.2]).grade(answer(half, 1, accuracy=0.15)).score == 0.15
    assert Reference(EXPECTED, None, [0.1, 0.2]).grade(answer(half, 1)).score == 0.2
    assert Reference([], None, []).grade(answer(half, None)).score == 1.0
    assert Reference(EXPECTED, LABELS, []).level_score(0, [0, 0]) == 1.0


def test_agreement_is_relative_to_the_largest_magnitude_and_knows_no_nan():
    expected = np.array([[1000.0, 0.0]])
    assert agrees(expected + 0.09, expected)
    assert not agrees(expected + 0.11, expected)
    assert not agrees(np.array([[np.nan, 0.0]]), expected)
    assert not agrees(np.zeros((1, 3)), expected)
    assert right_share(np.zeros((3, 2)), np.array([0, 0])) == 0.0


def test_the_expected_outputs_are_the_sessions(checkpoint):
    """Each level's own, and levels differ; the file's accuracies are taken over."""
    workload = random_workload(checkpoint, seed=3)
    with Session(checkpoint, threads=1) as session:
        reference = make_reference(workload, session)
        again = session.run(workload.items[2], 1)["output"]
        assert reference.grade(Outcome(Arrival(0, 2), "ok", 1.0, 1, again)).check == "right"
        assert reference.grade(Outcome(Arrival(0, 2), "ok", 1.0, 0, again)).check == "wrong"
        assert reference.grade(Outcome(Arrival(0, 1), "ok", 1.0, 1, again)).check == "wrong"
    assert reference.stated == pytest.approx([0.5, 0.75])
