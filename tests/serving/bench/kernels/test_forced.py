"""Forced instruction sets: the request to the other process, and the use of its answer."""

from __future__ import annotations

import json

import pytest

from nested_sparse.errors import BenchError
from nested_sparse.serving.bench.kernels.forced import measure_forced
from nested_sparse.serving.bench.kernels.row import Row
from nested_sparse.serving.bench.kernels.table import chosen

SPECS = chosen(["*-avx2"], None, None)


def test_the_rows_come_from_the_other_process():
    made = [
        Row(spec, measured=2.0 + index, ours_ms=[1.0], reference_ms=[2.0], isa="avx2")
        for index, spec in enumerate(SPECS)
    ]
    asked = {}

    def run(command, environment):
        asked.update(environment, command=command)
        return "something printed\n" + json.dumps({"rows": [row.to_json() for row in reversed(made)]}) + "\n"

    assert measure_forced(SPECS, 7, run) == made
    assert asked["NESTED_SPARSE_FORCE_ISA"] == "avx2"
    command = asked["command"]
    assert command[command.index("--repeats") + 1] == "7"
    assert [command[at + 1] for at, word in enumerate(command) if word == "--rows"] == [spec.name for spec in SPECS]


@pytest.mark.parametrize("output", ["", "no JSON", '{"rows": []}', "[1]"])
def test_an_unreadable_answer_is_said(output):
    with pytest.raises(BenchError, match="NESTED_SPARSE_FORCE_ISA=avx2 printed no result"):
        measure_forced(SPECS, 7, lambda command, environment: output)
