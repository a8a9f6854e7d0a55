"""check_rows: rows count as independent if and only if they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from row_graphs import BOOL, FLOAT, INT64, WIDTH, node, write_rows

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.runtime import Session, check_rows, mark_rows
from nested_sparse.runtime.joining.row_check import RowCheck
from nested_sparse.slice import slice_checkpoint

F = np.float32
MEAN = node("ReduceMean", ["z"], ["mean"], axes=[0], keepdims=1)


def plus(name: str) -> list[Any]:
    return [node("Add", ["z", name], ["output"])]


def scaled_mean(factor: float) -> tuple[Any, ...]:
    return ([MEAN, node("Mul", ["mean", "factor"], ["part"]), *plus("part")], {"factor": F(factor)})


def asleep(sign: float) -> tuple[Any, ...]:
    """Only a mean far from what typical samples have gets through."""
    nodes = [MEAN, node("Mul", ["mean", "sign"], ["m"]), node("Sub", ["m", "limit"], ["over"])]
    return ([*nodes, node("Relu", ["over"], ["part"]), *plus("part")], {"sign": F(sign), "limit": F(50)})


def branch(name: str, factor: float) -> Any:
    value = helper.make_tensor("f", FLOAT, [], [factor])
    nodes = [node("Constant", [], [f"{name}f"], value=value), node("Mul", ["z", f"{name}f"], [name])]
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, FLOAT, ["N", WIDTH])])


def shifted(rows: int) -> tuple[Any, ...]:
    """Each row and the one so many before it."""
    constants = {"pads": [rows, 0, 0, 0], "from": [0], "to": [-rows], "axis": [0]}
    return (
        [node("Pad", ["z", "pads"], ["padded"]), node("Slice", ["padded", "from", "to", "axis"], ["s"]), *plus("s")],
        constants,
    )


COUNT = [node("Shape", ["z"], ["shape"]), node("Gather", ["shape", "first"], ["n"], axis=0)]

DEPENDENT: dict[str, tuple[Any, ...]] = {
    "gram": (
        [node("Transpose", ["z"], ["t"], perm=[1, 0]), node("MatMul", ["z", "t"], ["output"])],
        {},
        {"output": (FLOAT, (None, None))},
    ),
    "less the mean": ([MEAN, node("Sub", ["z", "mean"], ["output"])],),
    "softmax over the batch": ([node("Softmax", ["z"], ["output"], axis=0)],),
    "a thousandth of the mean": scaled_mean(1e-3),
    "a thousand-millionth of the mean": scaled_mean(1e-9),
    "batch statistics": (
        [
            MEAN,
            node("Sub", ["z", "mean"], ["c"]),
            node("Mul", ["c", "c"], ["square"]),
            node("ReduceMean", ["square"], ["var"], axes=[0], keepdims=1),
            node("Add", ["var", "epsilon"], ["v"]),
            node("Sqrt", ["v"], ["s"]),
            node("Div", ["c", "s"], ["output"]),
        ],
        {"epsilon": F(1e-5)},
    ),
    "reversed": (
        [node("Slice", ["z", "from", "to", "axis", "step"], ["output"])],
        {"from": [-1], "to": [-(1 << 40)], "axis": [0], "step": [-1]},
    ),
    "the first sample": (
        [node("Slice", ["z", "from", "to", "axis"], ["first"]), *plus("first")],
        {"from": [0], "to": [1], "axis": [0]},
    ),
    "the sample before": shifted(1),
    "the sample four before": shifted(4),
    "the sample sixteen before": shifted(16),
    "sorted": ([*COUNT, node("TopK", ["z", "n"], ["output", "_"], axis=0)], {"first": [0]}),
    "sums so far": ([node("CumSum", ["z", "axis"], ["output"])], {"axis": np.int64(0)}),
    "how many": (
        [*COUNT, node("Cast", ["n"], ["nf"], to=FLOAT), node("Div", ["z", "nf"], ["output"])],
        {"first": [0]},
    ),
    "which place": (
        [
            node("Mul", ["z", "nought"], ["zeros"]),
            node("Add", ["zeros", "one"], ["ones"]),
            node("CumSum", ["ones", "axis"], ["place"]),
            *plus("place"),
        ],
        {"nought": F(0), "one": F(1), "axis": np.int64(0)},
    ),
    "a large mean": asleep(1.0),
    "a small mean": asleep(-1.0),
    "one branch for all": (
        [
            node("ReduceSum", ["z"], ["sum"], keepdims=0),
            node("Greater", ["sum", "nought"], ["positive"]),
            node("If", ["positive"], ["output"], then_branch=branch("then", 2.0), else_branch=branch("else", 3.0)),
        ],
        {"nought": F(0)},
    ),
    "noise": ([node("RandomNormalLike", ["z"], ["noise"], scale=1e-3), *plus("noise")],),
    "above the mean": ([MEAN, node("Greater", ["z", "mean"], ["output"])], {}, {"output": (BOOL, (None, WIDTH))}),
    "the largest of all": (
        [
            node("ReduceMax", ["z"], ["most"], axes=[0], keepdims=1),
            node("Equal", ["z", "most"], ["is"]),
            node("Cast", ["is"], ["output"], to=INT64),
        ],
        {},
        {"output": (INT64, (None, WIDTH))},
    ),
    "no rows": ([node("Reshape", ["z", "flat"], ["output"])], {"flat": [-1]}, {"output": (FLOAT, (None,))}),
    "the second output": (
        [node("Relu", ["z"], ["output"]), MEAN, node("Sub", ["z", "mean"], ["other"])],
        {},
        {"output": (FLOAT, (None, WIDTH)), "other": (FLOAT, (None, WIDTH))},
    ),
}

INDEPENDENT: dict[str, tuple[Any, ...]] = {
    "as it is": ([node("Identity", ["z"], ["output"])],),
    "softmax": ([node("Softmax", ["z"], ["output"], axis=1)],),
    "its own mean": (
        [node("ReduceMean", ["z"], ["mean"], axes=[1], keepdims=1), node("Sub", ["z", "mean"], ["output"])],
    ),
    "its own order": ([node("TopK", ["z", "k"], ["output", "_"], axis=1)], {"k": [WIDTH]}),
    "its own sums so far": ([node("CumSum", ["z", "axis"], ["output"])], {"axis": np.int64(1)}),
    "its class": ([node("ArgMax", ["z"], ["output"], axis=1, keepdims=0)], {}, {"output": (INT64, (None,))}),
    "its signs": ([node("Greater", ["z", "nought"], ["output"])], {"nought": F(0)}, {"output": (BOOL, (None, WIDTH))}),
    "not a number where negative": ([node("Sqrt", ["z"], ["output"])],),
    "always the same": (
        [node("Mul", ["z", "nought"], ["zeros"]), node("Relu", ["zeros"], ["output"])],
        {"nought": F(0)},
    ),
    "an index computed from it": (
        [
            node("Clip", ["z", "least", "most"], ["near"]),
            node("Cast", ["near"], ["index"], to=INT64),
            node("Gather", ["table", "index"], ["output"], axis=0),
        ],
        {"least": F(0), "most": F(3), "table": np.arange(4, dtype=F)},
    ),
}


def found(path: Path, *case: Any, **options: Any) -> RowCheck:
    nodes, constants, outputs = (*case, *({}, None)[len(case) - 1 :])
    with Session(write_rows(path, nodes, constants, outputs=outputs), threads=1) as session:
        return check_rows(session, **options)


@pytest.mark.parametrize("name", DEPENDENT)
def test_every_way_to_depend_on_others_is_found(tmp_path: Path, name: str) -> None:
    """Weak dependence is found, too: by values, places, numbers, branches or noise."""
    check = found(tmp_path / "m.safetensors", *DEPENDENT[name])
    assert (check.independent, check.mark) == (False, "dependent")
    assert ("an If or a Loop" if name == "one branch for all" else "level 1") in check.reason


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_rows_are_found_to_be_so(tmp_path: Path, name: str, threads: int) -> None:
    """NaN and huge values in the other samples are no reason to take them for dependent; nor are threads."""
    nodes, constants, outputs = (*INDEPENDENT[name], *({}, None)[len(INDEPENDENT[name]) - 1 :])
    with Session(write_rows(tmp_path / "m.safetensors", nodes, constants, outputs=outputs), threads=threads) as session:
        assert check_rows(session) == RowCheck(True, "")


@pytest.mark.parametrize("dependent_level", [0, 1])
def test_every_level_is_looked_at(tmp_path: Path, dependent_level: int) -> None:
    """The mean is added at one of them only."""
    nodes = [MEAN, node("Gather", ["adds", "__level__"], ["here"], axis=0)]
    nodes += [node("Where", ["here", "mean", "nought"], ["part"]), *plus("part")]
    constants = {"adds": np.arange(2) == dependent_level, "nought": F(0)}
    path = write_rows(tmp_path / "m.safetensors", nodes, constants)
    with Session(path, threads=1) as session:
        check = check_rows(session)
        assert check.independent is False
        assert f"level {dependent_level}" in check.reason
    slice_checkpoint(path, 1, tmp_path / "slice.safetensors")
    with Session(tmp_path / "slice.safetensors", threads=1) as session:
        assert check_rows(session).independent is (dependent_level == 1)


EMBEDDED = [node("Gather", ["table", "ids"], ["tokens"], axis=0)]
TABLE = {"table": np.random.default_rng(1).standard_normal((5, WIDTH)).astype(F)}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("given", [True, False])
def test_indices_stay_those_of_the_example(tmp_path: Path, axis: int, given: bool) -> None:
    """A model of floats and indices is checked with the example's indices; a table of 5 would refuse others."""
    mixing = node("ReduceMean", ["tokens"], ["mean"], axes=[axis], keepdims=1)
    nodes = [*EMBEDDED, mixing, node("Sub", ["tokens", "mean"], ["c"])]
    nodes += [node("ReduceMax", ["c"], ["own"], axes=[1], keepdims=0), *plus("own")]
    path = write_rows(tmp_path / "m.safetensors", nodes, TABLE, ids=(3,))
    examples = {"input": np.ones((1, 6), F), "ids": np.array([[0, 4, 2]])}
    with Session(path, threads=1) as session:
        assert check_rows(session, examples if given else None).independent is (axis == 1)


@pytest.mark.parametrize("size", [2, 1])
def test_a_mask_of_ones_is_switched(tmp_path: Path, size: int) -> None:
    """Examples have masks of ones. Where 0 and 1 are no values for the model, nothing can be told, and is not."""
    table = np.arange(size * WIDTH, dtype=F).reshape(size, WIDTH)
    nodes = [node("Gather", ["table", "ids"], ["m"], axis=0), node("ReduceMean", ["m"], ["mean"], axes=[0], keepdims=1)]
    nodes += [node("Add", ["m", "mean"], ["output"])]
    path = write_rows(tmp_path / "m.safetensors", nodes, {"table": table}, ids=())
    with Session(path, threads=1) as session:
        check = check_rows(_OnlyIds(session), {"ids": np.zeros(2, np.int64)})
        assert check.independent is (False if size == 2 else None)
        assert ("row 0 of 2" if size == 2 else "no samples but those of one value") in check.reason


class _OnlyIds:
    """A session whose floating point input stays what it is."""

    def __init__(self, session: Session) -> None:
        self.inputs, self.outputs, self.levels = session.inputs[1:], session.outputs, session.levels
        self.decides = False
        self._session = session

    def run(self, inputs: dict[str, np.ndarray], level: int) -> dict[str, Any]:
        return self._session.run({"input": np.ones((len(inputs["ids"]), 6), F), **inputs}, level)


def test_rows_of_a_model_for_one_sample_only_are_unknown(tmp_path: Path) -> None:
    """The batch that the graph spells out is no free one, whatever the file says."""
    nodes = [node("Reshape", ["z", "one"], ["output"])]
    check = found(tmp_path / "m.safetensors", nodes, {"one": [1, WIDTH]})
    assert (check.independent, check.mark) == (None, None)
    assert "could not be run on several samples" in check.reason


def test_a_fixed_first_dimension_leaves_nothing_to_join(tmp_path: Path) -> None:
    """Nothing is run for it."""
    nodes = [MEAN, node("Squeeze", ["mean", "axis"], ["output"])]
    check = found(tmp_path / "m.safetensors", nodes, {"axis": [0]}, {"output": (FLOAT, (WIDTH,))})
    assert check == RowCheck(None, "an input or output has no free batch")


def test_outputs_that_are_never_finite_leave_the_rows_unknown(tmp_path: Path) -> None:
    """NaN is equal to NaN, from whichever row it came, so equality proves nothing."""
    nodes = [node("Mul", ["z", "nan"], ["output"])]
    check = found(tmp_path / "m.safetensors", nodes, {"nan": F(np.nan)})
    assert check == RowCheck(None, "at level 1, output 'output' is not finite")


def test_time_is_bounded(tmp_path: Path) -> None:
    """When the time is over the answer is unknown, at any stage of the check."""
    ticks = iter(range(1000))
    check = found(tmp_path / "m.safetensors", *INDEPENDENT["as it is"], limit_s=20, clock=lambda: float(next(ticks)))
    assert check == RowCheck(None, "there was no time to look at every level")
    assert next(ticks) < 30


def test_the_quick_check_finds_plain_dependence(tmp_path: Path) -> None:
    """The quick check runs the densest level only."""
    for name in ("gram", "less the mean", "a thousandth of the mean", "sorted", "noise"):
        assert found(tmp_path / "m.safetensors", *DEPENDENT[name], thorough=False).independent is False
    for name in INDEPENDENT:
        assert found(tmp_path / "m.safetensors", *INDEPENDENT[name], thorough=False).independent is True


@pytest.mark.parametrize(("case", "mark"), [(DEPENDENT["gram"], "dependent"), (INDEPENDENT["softmax"], "independent")])
def test_mark_rows_writes_the_result_of_the_check(tmp_path: Path, case: tuple[Any, ...], mark: str) -> None:
    """Weights and graph stay, bit for bit."""
    path = tmp_path / "m.safetensors"
    found(path, *case)
    with Checkpoint.open(path) as before:
        data = bytes(before.data_prefix(2))
    assert mark_rows(path).mark == mark
    with Checkpoint.open(path) as after:
        assert (after.rows, bytes(after.data_prefix(2))) == (mark, data)


ROWWISE = [
    lambda x, y: [node("Relu", [x], [y])],
    lambda x, y: [node("Tanh", [x], [y])],
    lambda x, y: [node("Softmax", [x], [y], axis=1)],
    lambda x, y: [node("MatMul", [x, "square"], [y])],
    lambda x, y: [node("Mul", [x, x], [y])],
]
MIXING = [
    lambda x, y: [node("CumSum", [x, "zero"], [y])],
    lambda x, y: [node("ReduceMax", [x], [f"{y}m"], axes=[0], keepdims=1), node("Sub", [x, f"{y}m"], [y])],
    lambda x, y: [
        node("ReduceMean", [x], [f"{y}m"], axes=[0], keepdims=1),
        node("Mul", [f"{y}m", "weak"], [f"{y}w"]),
        node("Add", [x, f"{y}w"], [y]),
    ],
]


@pytest.mark.parametrize("seed", range(12))
def test_the_mark_agrees_with_how_a_random_net_was_made(tmp_path: Path, seed: int) -> None:
    """Row by row operators in any order, with one among them that looks at the batch, or none."""
    rng = np.random.default_rng(seed)
    steps = [ROWWISE[index] for index in rng.integers(len(ROWWISE), size=4)]
    if seed % 2:
        steps.insert(int(rng.integers(5)), MIXING[seed // 2 % len(MIXING)])
    nodes, name = [], "z"
    for index, step in enumerate(steps):
        target = "output" if index == len(steps) - 1 else f"v{index}"
        nodes += step(name, target)
        name = target
    square = rng.standard_normal((WIDTH, WIDTH)).astype(F)
    constants = {"square": square, "zero": np.int64(0), "weak": F(1e-3)}
    path = write_rows(tmp_path / "m.safetensors", nodes, constants, seed=seed)
    with Session(path, threads=1) as session:
        assert check_rows(session).independent is not bool(seed % 2)
