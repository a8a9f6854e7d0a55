"""NestedLSTM, NestedGRU: the operators in ONNX Runtime, compared with numpy in float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sparse_node import Array, SparseModel, SparseNode, linear_node, place, recurrent_node, session_of

from nested_sparse.layouts import GatherScatter
from nested_sparse.value_type import FLOAT16

OPERATORS = ["NestedLSTM", "NestedGRU"]
STATES = {"NestedLSTM": 2, "NestedGRU": 1}
TOLERANCE = 1e-5
"""Of hidden states, which lie within -1 and 1; errors do not grow from step to step (recurrent_node)."""


def projected(rng: np.random.Generator, node: SparseNode, steps: int, batch: int) -> Array:
    return (2 * rng.standard_normal((steps, batch, node.weight.rows))).astype(np.float32)


def check(node: SparseNode, steps: int, batch: int, threads: int = 1) -> None:
    """Every level on a random input, and a random initial state where the node has one, gives what numpy gives."""
    rng = np.random.default_rng(steps + batch)
    model = SparseModel([node], threads=threads)
    x = projected(rng, node, steps, batch)
    state = rng.uniform(-1, 1, (STATES[node.op], batch, node.weight.columns)).astype(np.float32)
    for level in range(len(node.norms)):
        given = [state] if node.residual else []
        expected = node.steps(x, level, *given)
        got = model.run_all(x, level, given)
        assert [each.shape for each in got] == [each.shape for each in expected]
        for one, other in zip(got, expected, strict=True):
            assert np.abs(one - other).max(initial=0) <= TOLERANCE, level


@pytest.mark.every_isa
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("block_rows", [1, 2, 4, 8, 16, 128])
def test_every_block_height_and_size_of_batch(op: str, block_rows: int) -> None:
    """Few and many sequences, more than are multiplied at once, odd sizes, both directions, with and without state."""
    rng = np.random.default_rng(block_rows)
    for batch in (1, 3, 4, 7, 13, 17, 130):
        check(recurrent_node(rng, op, 19, block_rows), 5, batch)
        node = recurrent_node(rng, op, 21, block_rows, permuted=True, reverse=True, residual=True)
        check(node, 4, batch, threads=2)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("options", [{"layout": GatherScatter(16, 4)}, {"value_type": FLOAT16}], ids=["gather", "half"])
def test_every_kind_of_weight(op: str, options: dict[str, object]) -> None:
    """Gather groups, and float16."""
    node = recurrent_node(np.random.default_rng(0), op, 40, 1, permuted=True, residual=True, **options)
    for batch in (1, 6):
        check(node, 3, batch)


@pytest.mark.parametrize("op", OPERATORS)
def test_large_layer_is_cut_into_tasks(op: str) -> None:
    """Enough work for several tasks in every step."""
    node = recurrent_node(np.random.default_rng(3), op, 500, 16, densities=(0.1, 0.9))
    for batch in (2, 5):
        check(node, 2, batch, threads=2)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("batch", [1, 6])
def test_nothing_leaks_between_sequences(op: str, batch: int) -> None:
    """A sequence alone and one among others, of which one is full of NaN, have the same bits, run after run."""
    rng = np.random.default_rng(4)
    node = recurrent_node(rng, op, 20, residual=True)
    model = SparseModel([node])
    x = projected(rng, node, 6, batch)
    state = np.zeros((STATES[op], batch, 20), np.float32)
    first = model.run_all(x, 1, [state])
    broken = np.full_like(x, np.nan)
    assert np.isnan(model.run(broken, 1, [state])).all()
    for one, other in zip(model.run_all(x, 1, [state]), first, strict=True):
        assert np.array_equal(one, other)
    broken[:, :-1] = x[:, :-1]
    assert np.array_equal(model.run(broken, 1, [state])[:, :-1], first[0][:, :-1])


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("batch", [2, 5])
def test_a_sequence_may_go_on_where_it_ended(op: str, batch: int) -> None:
    """Two halves, the second from the state of the first, have the same bits as the whole."""
    rng = np.random.default_rng(5)
    node = recurrent_node(rng, op, 20, residual=True)
    model = SparseModel([node])
    x = projected(rng, node, 7, batch)
    state = rng.uniform(-1, 1, (STATES[op], batch, 20)).astype(np.float32)
    whole = model.run_all(x, 2, [state])
    begin, *cells = model.run_all(x[:3], 2, [state])
    end = model.run_all(x[3:], 2, [np.stack([begin[-1], *cells])])
    assert np.array_equal(np.concatenate([begin, end[0]]), whole[0])
    assert all(np.array_equal(one, other) for one, other in zip(end[1:], whole[1:], strict=True))


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("batch", [1, 5])
def test_gates_that_are_far_from_zero(op: str, batch: int) -> None:
    """Infinite and huge inputs close or open a gate; no NaN arises from them."""
    rng = np.random.default_rng(6)
    node = recurrent_node(rng, op, 9)
    signs = np.sign(projected(rng, node, 4, batch))
    for size in (20.0, 1e30, np.inf):
        x = (signs * size).astype(np.float32)
        with np.errstate(over="ignore"):
            expected = node.steps(np.clip(x, -1e30, 1e30), 1)
        for one, other in zip(SparseModel([node]).run_all(x, 1), expected, strict=True):
            assert np.abs(one - other).max() <= TOLERANCE, size


@pytest.mark.parametrize("op", OPERATORS)
def test_no_sequences_and_wrong_shapes(op: str) -> None:
    """No sequences give no output. No steps, another width and a state of another size are refused, with the shapes."""
    node = recurrent_node(np.random.default_rng(7), op, 12, residual=True)
    model, rows, states = SparseModel([node]), node.weight.rows, STATES[op]

    def run(x: tuple[int, ...], state: tuple[int, ...]) -> list[Array]:
        return model.run_all(np.zeros(x, np.float32), 0, [np.zeros(state, np.float32)])

    assert [each.shape for each in run((3, 0, rows), (states, 0, 12))] == [(3, 0, 12), (0, 12)][:states]
    with pytest.raises(
        Exception, match=rf"layer 'layer0': a sequence must have at least one step, got X \[0, 2, {rows}\]"
    ):
        run((0, 2, rows), (states, 2, 12))
    with pytest.raises(Exception, match=rf"layer 'layer0': X must be \[T, N, {rows}\], got \[3, 2, {rows + 1}\]"):
        run((3, 2, rows + 1), (states, 2, 12))
    with pytest.raises(Exception, match=rf"X must be \[T, N, {rows}\], got \[3, {rows}\]"):
        run((3, rows), (states, 2, 12))
    for wrong in ((states, 1, 12), (states, 2, 11), (3 - states, 2, 12), (2, 12)):
        with pytest.raises(Exception, match=rf"layer 'layer0': the initial state must be \[{states}, 2, 12\], got"):
            run((3, 2, rows), wrong)


@pytest.mark.parametrize("made", [["y"], ["y", ""], ["", "cells"], ["y", "cells", "more"]])
def test_a_node_with_other_outputs_is_an_error(made: list[str]) -> None:
    """Outputs that are missing, have no name, or are too many: refused when the session is made, or at the run."""
    model = SparseModel([recurrent_node(np.random.default_rng(9), "NestedLSTM", 12)])
    graph = model.graph()
    graph.node[0].output[:] = made
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in made if name)
    with pytest.raises(Exception, match=r"output"):
        run_graph(model, graph, np.zeros((2, 1, 48), np.float32), 0)


def run_graph(model: SparseModel, graph: onnx.GraphProto, x: Array, level: int) -> Array:
    """Output of another graph with the inputs of the model's."""
    model.session = session_of(graph)
    return model.run(x, level)


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("batch", [1, 8])
def test_each_layer_runs_at_the_level_that_it_reads(op: str, batch: int) -> None:
    """A layer that reads another level than the one before it, as where the level falls between them."""
    rng = np.random.default_rng(10)
    nodes = [linear_node(rng, 20, (4 if op == "NestedLSTM" else 3) * 20), recurrent_node(rng, op, 20)]
    model = SparseModel(nodes)
    graph = model.graph()
    graph.node.insert(1, helper.make_node("Mul", ["__level__", "zero"], ["lower"]))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int64), "zero"))
    graph.node[2].input[1] = "lower"
    x = rng.standard_normal((4, batch, 20)).astype(np.float32)
    expected = nodes[1].steps(nodes[0].dense(x, 2).astype(np.float32), 0)[0]
    assert np.abs(run_graph(model, graph, x, 2) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize(
    ("spoiled", "message"),
    [({"reverse": 2}, "'reverse': expected 0 to 1, got 2"), ({"columns": 11}, "rows for each of its 11 columns, got")],
)
def test_attributes_are_checked_when_the_session_is_made(op: str, spoiled: dict[str, int], message: str) -> None:
    """The direction, and as many rows as gates ask for."""
    node = recurrent_node(np.random.default_rng(8), op, 12)
    placed = place([node])
    placed.attributes[0].update(spoiled)
    with pytest.raises(Exception, match=message):
        SparseModel([node], placed)
