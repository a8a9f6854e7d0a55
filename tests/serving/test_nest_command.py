"""nest command: `nested-sparse nest` from an ONNX file to a table, to JSON, and to the answer of a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from onnx_files import answers, close, random, saved, torch_cnn

from nested_sparse.errors import BudgetError, InputError, NestedSparseError, PatternError
from nested_sparse.runtime import Session
from nested_sparse.serving import cli

IMAGES = random(12, 3, 11, 10)


def nest(*arguments: Any) -> Result:
    return CliRunner().invoke(cli.app, ["nest", *map(str, arguments)])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with model.onnx and data.npz, which has labels: the model's own answers."""
    model = torch_cnn()
    saved(model, tmp_path / "model.onnx")
    labels = answers(model, {"input": IMAGES})["output"].argmax(1)
    np.savez(tmp_path / "data.npz", input=IMAGES, classes=labels)
    return tmp_path


def test_a_table_of_levels_and_layers(files: Path) -> None:
    """The densest level at density 1 is right wherever the model is."""
    line = [files / "model.onnx", "--calibration", files / "data.npz", "--density", 0.3, "--density", 1]
    done = nest(*line, "--labels", "classes", "-o", files / "model.safetensors")
    assert done.exit_code == 0, done.output
    for words in ("100.00%", "accuracy", "layer1.0.conv", "worth keeping dense", "4 nested layers"):
        assert words in done.stdout
    with Session(files / "model.safetensors", threads=1) as session:
        assert session.levels[1].metrics["accuracy"] == 1.0
        close(session.run({"input": IMAGES})["output"], answers(torch_cnn(), {"input": IMAGES})["output"])


def test_json_has_levels_and_the_report(files: Path) -> None:
    """Sizes that were free are fixed, and the values are float16."""
    line = [files / "model.onnx", "--calibration", files / "data.npz", "--density", 0.3, "--pattern", "block4x1"]
    line += ["--labels", "classes", "--values", "float16", "--keep-dense", "conv1", "--size", "N=2", "--samples", 8]
    done = nest(*line, "-o", files / "new.safetensors", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["inputs"][0]["shape"] == [2, 3, 11, 10]
    assert {layer["name"]: layer["value_bytes"] for layer in facts["layers"]} == dict.fromkeys(
        ("conv1", "layer1.0.conv", "conv3", "fc"), 2
    )
    assert {each["name"] for each in facts["report"]["layers"]} == {"layer1.0.conv", "conv3", "fc"}


def test_wrong_usage(files: Path) -> None:
    line = [files / "model.onnx", "--calibration", files / "data.npz", "-o", files / "new.safetensors"]
    assert nest(*line).exit_code == 2  # no density
    assert nest(*line, "--density", 0.3, "--size", "N").exit_code == 2
    done = nest(*line, "--density", 0.3)
    assert isinstance(done.exception, InputError)
    assert "an array 'classes'" in str(done.exception)
    done = nest(*line, "--density", 0.3, "--density", 0.6, "--labels", "classes", "--keep-dense", "*")
    assert isinstance(done.exception, BudgetError)
    assert "none of its 4 nested layers is left to be sparse, so the 2 levels would be the same" in str(done.exception)
    done = nest(*line, "--density", 0.3, "--labels", "classes", "--pattern", "auto")
    assert isinstance(done.exception, PatternError)
    assert "budget_by" not in str(done.exception)
    assert "which a model from an ONNX file does not take; name one: unstructured" in str(done.exception)
    done = nest(*line, "--density", 0.3, "--labels", "nothing")
    assert isinstance(done.exception, NestedSparseError)
    assert not (files / "new.safetensors").exists()
