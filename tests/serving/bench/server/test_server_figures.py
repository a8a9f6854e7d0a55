"""Server figures: the installed size, the time of a start, and the one table of all parts."""

from __future__ import annotations

import json
import os
import py_compile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nested_sparse.errors import CheckpointError, NestedSparseError
from nested_sparse.serving.bench.reach import Reach
from nested_sparse.serving.bench.server import installed, run
from nested_sparse.serving.bench.server.installed import installed_bytes, installed_figure
from nested_sparse.serving.bench.server.memory import memory_figures
from nested_sparse.serving.bench.server.start import start_figure
from nested_sparse.serving.bench.serving.figure import Figure
from nested_sparse.serving.cli import app
from support import EXAMPLE


def folder_bytes(package: str) -> int:
    """Bytes of a package's folder, found by walking it."""
    top = Path(str(distribution(package).locate_file(package)))
    return sum(os.path.getsize(Path(folder) / name) for folder, _, names in os.walk(top) for name in names)


def test_every_requirement_is_counted() -> None:
    """All that a server imports is there and no extra is; the bytes of a package are those of its folder."""
    sizes = installed_bytes()
    needed = {"numpy", "onnxruntime", "grpcio", "protobuf", "safetensors", "click", "tabulate"}
    assert {"nested-sparse", "pip"} | needed <= set(sizes)
    assert not {"torch", "onnx", "aiohttp", "cryptography", "pytest", "rich"} & set(sizes)
    # byte code that a test wrote is not on the installer's list
    assert 0.5 * folder_bytes("onnxruntime") < sizes["onnxruntime"] < 1.1 * folder_bytes("onnxruntime")
    figure = installed_figure()
    assert figure.measured == pytest.approx(sum(sizes.values()) / 1e6, abs=0.1)
    assert "onnxruntime" in figure.note


def test_byte_code_that_python_wrote_later_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `pip install --no-compile` it is not on the installer's list, and takes space all the same."""
    record = tmp_path / "small-1.0.dist-info"
    record.mkdir()
    record.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
    record.joinpath("RECORD").write_text("small.py,,\n")
    source = tmp_path / "small.py"
    source.write_text("X = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(installed, "PACKAGE", "small")
    before = installed_bytes()["small"]
    assert before == source.stat().st_size
    byte_code = py_compile.compile(str(source))
    assert byte_code is not None
    assert installed_bytes()["small"] == before + Path(byte_code).stat().st_size


def test_a_start_is_measured() -> None:
    """One start that measures the levels, then one with the kept profile."""
    figure = start_figure(EXAMPLE, times=1)
    assert figure.measured is not None
    first_s, second_s = figure.details["taken_s"]
    assert figure.measured == second_s > 0 < first_s


def test_one_table_of_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that cannot be measured is a row with the reason, and the others are there all the same."""

    def refuse(*_: Any) -> list[Figure]:
        raise NestedSparseError("it needs torch: pip install 'nested-sparse[train]'")

    monkeypatch.setattr(run, "start_figure", lambda path, times: Figure("start", "s", Reach("<=", 1.0), 0.5))
    monkeypatch.setattr(run, "memory_figures", lambda path: [Figure("memory at rest", "MB", None, 60.0)])
    monkeypatch.setattr(run, "_front", refuse)
    monkeypatch.setattr(run, "_load", lambda *_: [Figure("worst cell", "points", Reach(">=", 0.0), -0.25)])
    result = CliRunner().invoke(app, ["bench", "server", str(EXAMPLE), "--quick"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout.splitlines()[-1])["figures"]
    names = ["start", "memory at rest", "calls beside a bare gRPC server", "worst cell"]
    assert [each["name"] for each in figures[1:]] == names
    assert [each["met"] for each in figures[1:]] == [True, None, None, False]
    assert "it needs torch" in figures[3]["unavailable"]
    assert "worst cell" in result.stdout
    result = CliRunner().invoke(app, ["bench", "server", str(EXAMPLE), "--bill"])
    assert [each["name"] for each in json.loads(result.stdout.splitlines()[-1])["figures"][1:]] == names[:2]


def test_memory_at_rest_and_under_load() -> None:
    """The resident set of a server: more than a Python alone, all answers counted, and the peak not below the rest."""
    rest, peak = memory_figures(EXAMPLE, seconds=0.5)
    assert rest.measured is not None
    assert peak.measured is not None
    assert 20 < rest.measured <= peak.measured
    assert peak.details["answered"] > 0


def test_a_file_that_no_server_opens_is_an_error(tmp_path: Path) -> None:
    """As in all parts of the bill, which have no reason not to be measured."""
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(EXAMPLE.read_bytes()[:100_000])
    result = CliRunner().invoke(app, ["bench", "server", str(broken), "--bill"])
    assert isinstance(result.exception, CheckpointError)


def test_a_bill_with_a_part_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Figure:
        raise NestedSparseError("the server ended at its start")

    monkeypatch.setattr(run, "start_figure", refuse)
    monkeypatch.setattr(run, "memory_figures", lambda path: [Figure("memory at rest", "MB", None, 60.0)])
    result = CliRunner().invoke(app, ["bench", "server", str(EXAMPLE), "--bill", "--json"])
    assert "start: the server ended at its start" in str(result.exception)


def test_a_missing_file(tmp_path: Path) -> None:
    """It is said before anything is measured."""
    result = CliRunner().invoke(app, ["bench", "server", str(tmp_path / "none.safetensors")])
    assert result.exit_code != 0
