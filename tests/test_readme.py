"""Every code block of the README, in order, as it is written: what is quick runs, the rest is understood to the end.

Each line of a shell block has its way of being tested in WAYS, and one that has none fails. What is put in the place of
the README's own words: free ports, for a test must not ask for 8001 or 9001, and `--once`, for `top` never ends.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from nested_sparse.serving import cli
from nested_sparse.trainer.data.datasets import Digits
from nested_sparse.trainer.models import DigitNet

ROOT = Path(__file__).parents[1]
ADDRESS = "127.0.0.1:8001"
WAYS = {
    "make ": "target",  # minutes to hours; its target must exist
    "nested-sparse train --list": "run",
    "nested-sparse train ": "train",  # minutes; the recipe is read and checked, and then not trained
    "nested-sparse inspect ": "run",
    "nested-sparse slice ": "run",
    "nested-sparse profile ": "run",
    "nested-sparse bench kernels": "kernels",  # minutes; the rows are chosen, and then not measured
    "nested-sparse bench serving": "load",  # minutes; the options are checked, and then nothing is measured
    "nested-sparse serve ": "serve",  # in a process of its own, on free ports, until the next one or the end
    "nested-sparse top ": "top",  # of that server, once
}

RECIPE = """
[data]
name = "digits"
[model]
name = "digit_net"
[nest]
densities = [0.2, 0.6]
"""
"""What the README calls mine.toml."""


def given_names() -> dict[str, Any]:
    """What the README's Python takes for granted, and says so: the user's model, data and loss. Small, to be quick."""
    data = Digits(size=8, batch_size=48, epoch_samples=48, validation_samples=20).load(0)
    return {
        "model": DigitNet(width=4),
        "batches": data.batches,
        "loss_fn": torch.nn.functional.cross_entropy,
        "test_batches": list(data.scored()),
        "example": data.example[0],
    }


def blocks() -> list[tuple[str, str]]:
    """(language, text) of each."""
    text = ROOT.joinpath("README.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@dataclass
class Reader:
    """Somebody who copies one block after the other, in a folder of theirs."""

    names: dict[str, Any]
    patch: pytest.MonkeyPatch
    address: str = ""
    reached: list[str] = field(default_factory=list)
    running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def shell(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        way = next((way for begin, way in WAYS.items() if f"{' '.join(words)} ".startswith(begin)), None)
        assert way is not None, f"no way to test: {line}"
        getattr(self, way)(words)

    def target(self, words: list[str]) -> None:
        makefile = ROOT.joinpath("Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), words
        assert re.search(rf"make {re.escape(words[1])}\b", makefile.partition("install:")[0]), f"not in help: {words}"

    def run(self, words: list[str]) -> str:
        done = CliRunner().invoke(cli.app, words[1:])
        assert done.exit_code == 0, (words, done.output, done.exception)
        return str(done.stdout)

    def train(self, words: list[str]) -> None:
        def untrained(recipe: Any, out: Path, **_: Any) -> dict[str, Any]:
            self.reached.append(recipe.name)
            return {}

        self.patch.setattr("nested_sparse.trainer.recipes.run.run_recipe", untrained)
        before = len(self.reached)
        self.run(words)
        assert len(self.reached) == before + 1, words

    def kernels(self, words: list[str]) -> None:
        from nested_sparse.errors import BenchError

        def unmeasured(specs: Any, *_: Any) -> Any:
            raise BenchError("not measured by this test")

        self.patch.setattr("nested_sparse.serving.bench.kernels.measure.measure_rows", unmeasured)
        rows = json.loads(self.run(words).splitlines()[-1])["rows"]
        assert rows, words
        assert {row["unavailable"] for row in rows} == {"not measured by this test"}

    def load(self, words: list[str]) -> None:
        class ReachedError(Exception):
            """Everything before the measuring went well."""

        def unmeasured(options: Any, console: Any) -> Any:
            raise ReachedError

        self.patch.setattr("nested_sparse.serving.bench.serving.run.run_load_test", unmeasured)
        self.patch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own
        done = CliRunner().invoke(cli.app, words[1:])
        assert isinstance(done.exception, ReachedError), (words, done.output, done.exception)

    def serve(self, words: list[str]) -> None:
        self.running.close()
        free = ["--port", "0", *(["--metrics-port", "0"] if "--metrics-port" in words else [])]
        self.address = self.running.enter_context(served([*words[1:], *free, "--profile-cache", "off", "--json"]))

    def top(self, words: list[str]) -> None:
        assert ADDRESS in words
        said = self.run([self.address if word == ADDRESS else word for word in words] + ["--once"])
        assert "fashion-mnist" in said

    def python(self, text: str) -> None:
        code = compile(text.replace(ADDRESS, self.address or ADDRESS), "README.md", "exec")
        end_s = time.monotonic() + 120
        while True:
            try:
                exec(code, self.names)
                return
            except Exception as error:  # a slow machine cannot keep the README's 20 ms; the server says so, for a retry
                if "shed" not in str(error) or time.monotonic() > end_s:
                    raise


@contextlib.contextmanager
def served(arguments: list[str]) -> Iterator[str]:
    """A server of its own process; its address. It must end in order."""
    command = [sys.executable, "-m", "nested_sparse.serving.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            ready = process.stdout.readline()
            assert ready, process.stderr.read()
            yield str(json.loads(ready)["address"])
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=180)
            assert process.returncode == 0, log
        finally:
            process.kill()


def test_every_block_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with the docs, a recipe and a file of arrivals; what a block leaves the next ones find."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "mine.toml").write_text(RECIPE)
    (tmp_path / "arrivals.npz").touch()
    monkeypatch.chdir(tmp_path)
    reader = Reader(given_names(), monkeypatch)
    with contextlib.closing(reader.running):
        for language, text in blocks():
            assert language in ("", "python"), f"a block of {language!r}: say here how it is tested"
            if language:
                reader.python(text)
            else:
                for line in text.splitlines():
                    reader.shell(line)
    assert reader.reached == ["fashion-mnist", "mine"]
    assert {"resnet20.safetensors", "model.safetensors", "small.safetensors"} <= {
        path.name for path in Path().iterdir()
    }
    assert reader.names["accuracy"][0] <= 1
    assert reader.names["net"].level_count == 3
    assert reader.names["sparse"].shape == reader.names["dense"].shape == (1, 10)
    answer = reader.names["answer"]
    assert answer.as_numpy("output").shape == (1, 10)
    assert answer.get_response().parameters["accuracy"].double_param >= 0.9
    reader.names["client"].close()


def test_there_are_blocks_to_run() -> None:
    """Else the test above would pass for a README that it cannot read."""
    found = blocks()
    assert sum(language == "python" for language, _ in found) >= 4
    assert sum(len(text.splitlines()) for language, text in found if not language) >= 20
