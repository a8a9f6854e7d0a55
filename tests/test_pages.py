"""Pages: every code block of the README and of the user pages in docs/, in order, as written.

Quick commands run. Long ones are parsed and checked up to the point where the long work would start. Each line of a
shell block has its way of being tested in WAYS; a line that has none fails. Two things are put in the place of a page's
own words: free ports, because a test must not ask for 8001 or 9001, and `--once`, because `top` never ends.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from nested_sparse.serving import cli
from nested_sparse.trainer import export, nest
from nested_sparse.trainer.data.datasets import Digits
from nested_sparse.trainer.recipes.recipe import load_recipe
from nested_sparse.trainer.zoo import GPT, DigitNet

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "fashion-mnist.safetensors"
ADDRESS, HTTP_ADDRESS = "127.0.0.1:8001", "127.0.0.1:8000"
WAYS = {
    "make ": "target",  # minutes to hours; its target must exist
    "nested-sparse train --list": "run",
    "nested-sparse train ": "train",  # minutes; the recipe is read and checked, and then not trained
    "nested-sparse inspect ": "run",
    "nested-sparse slice ": "run",
    "nested-sparse nest ": "run",
    "nested-sparse sign ": "run",
    "nested-sparse publish ": "run",
    "nested-sparse profile ": "run",
    "nested-sparse bench kernels": "kernels",  # minutes; the rows are chosen, and then not measured
    "nested-sparse bench networks": "networks",  # minutes; the rows are chosen, and then not measured
    "nested-sparse bench serving": "load",  # minutes; the options are checked, and then nothing is measured
    "nested-sparse bench server": "server",  # a minute or more; the options are checked, and then nothing is measured
    "nested-sparse serve --check ": "run",
    "nested-sparse serve ": "serve",  # in a process of its own, on free ports, until the next one or the end
    "nested-sparse top ": "top",  # of that server, once
    "openssl ": "system",
    "echo ": "system",
    "mkdir ": "system",
    "cp ": "system",
}

RECIPE = """
[data]
name = "digits"
[model]
name = "digit_net"
[nest]
densities = [0.2, 0.6]
"""
"""The file that the pages call mine.toml."""


def given_names() -> dict[str, Any]:
    """The names that the pages' Python takes as given: the user's model, data and loss. Small, to be quick.

    One thread trains: beside other work, two threads wait for each other at every layer, for a minute in all.
    """
    torch.set_num_threads(1)
    data = Digits(size=8, batch_size=48, epoch_samples=48, validation_samples=20).load(0)
    return {
        "model": DigitNet(width=4),
        "batches": data.batches,
        "loss_fn": torch.nn.functional.cross_entropy,
        "test_batches": list(data.scored()),
        "example": data.example[0],
    }


def write_given_onnx(model: torch.nn.Module, example: torch.Tensor) -> None:
    """The ONNX file of `model`, pruned, and data for it, where a page takes both as given."""
    pruned = copy.deepcopy(model).eval()
    for parameter in pruned.parameters():
        parameter.data[parameter.abs() < parameter.abs().median()] = 0
    torch.onnx.export(pruned, (example,), "model.onnx", input_names=["x"], dynamic_axes={"x": {0: "N"}}, dynamo=False)
    np.savez("data.npz", x=np.random.default_rng(0).random((24, *example.shape[1:]), np.float32))


def write_gpt(path: Path) -> None:
    """The file of a small GPT that is not trained, and takes a text piece by piece."""
    path.parent.mkdir(parents=True, exist_ok=True)
    model = GPT(width=16, depth=1, heads=2, longest=16).eval()
    export(nest(model, densities=(0.2, 0.6), pattern="block4x1"), path=path, **model.stepwise())


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each block of the page; `text` is the language of a drawing, which is not run."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(language, body) for language, body in found if language != "text"]


def pages() -> list[str]:
    """The pages that have blocks to run, by their path from the root."""
    docs = ROOT / "docs"
    found = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted(docs.glob("*.md")),
        *sorted(docs.glob("examples/*.md")),
    ]
    return [str(page.relative_to(ROOT)) for page in found if page.exists() and blocks(page)]


@dataclass
class Reader:
    """A user that copies one block after the other, in a folder of its own."""

    names: dict[str, Any]
    patch: pytest.MonkeyPatch
    address: str = ""
    http_address: str = ""
    model: str = ""
    line: str = ""
    reached: list[str] = field(default_factory=list)
    running: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def shell(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        way = next((way for begin, way in WAYS.items() if f"{' '.join(words)} ".startswith(begin)), None)
        assert way is not None, f"no way to test: {line}"
        self.line = line
        getattr(self, way)(words)

    def target(self, words: list[str]) -> None:
        makefile = ROOT.joinpath("Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), words
        assert re.search(rf"make {re.escape(words[1])}\b", makefile.partition("install:")[0]), f"not in help: {words}"

    def system(self, words: list[str]) -> None:
        subprocess.run(["bash", "-c", self.line], check=True, capture_output=True, timeout=60)

    def run(self, words: list[str]) -> str:
        done = CliRunner().invoke(cli.app, words[1:])
        assert done.exit_code == 0, (words, done.output, done.exception)
        return str(done.stdout)

    def train(self, words: list[str]) -> None:
        def untrained(recipe: Any, out: Path, **_: Any) -> dict[str, Any]:
            self.reached.append(recipe.name)
            if recipe.output.stepwise:  # a later line of the page serves it
                write_gpt(out / f"{recipe.name}.safetensors")
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

    def networks(self, words: list[str]) -> None:
        from nested_sparse.serving.bench.networks.row import Row

        def unmeasured(network: Any, settings: Any) -> Any:
            return Row(network.name, network.source, network.pattern, settings.levels, unavailable="not measured")

        self.patch.setattr("nested_sparse.serving.bench.networks.measure.measure_network", unmeasured)
        rows = json.loads(self.run(words).splitlines()[-1])["rows"]
        assert rows, words

    def load(self, words: list[str]) -> None:
        self.stops_at("nested_sparse.serving.bench.serving.run.run_load_test", words)

    def server(self, words: list[str]) -> None:
        self.stops_at("nested_sparse.serving.bench.server.run.measure_server", words)

    def stops_at(self, function: str, words: list[str]) -> None:
        class ReachedError(Exception):
            """All went well up to the measuring."""

        def unmeasured(options: Any, console: Any) -> Any:
            raise ReachedError

        self.patch.setattr(function, unmeasured)
        self.patch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own
        done = CliRunner().invoke(cli.app, words[1:])
        assert isinstance(done.exception, ReachedError), (words, done.output, done.exception)

    def serve(self, words: list[str]) -> None:
        self.running.close()
        free = [
            part
            for name in ("--port", "--metrics-port", "--http-port")
            if name in ("--port", *words)
            for part in (name, "0")
        ]
        self.model = Path(words[2]).stem
        told = self.running.enter_context(served([*words[1:], *free, "--profile-cache", "off", "--json"]))
        self.address, self.http_address = told["address"], told["http_address"] or ""

    def top(self, words: list[str]) -> None:
        assert ADDRESS in words
        said = self.run([self.address if word == ADDRESS else word for word in words] + ["--once"])
        assert self.model in said

    def python(self, text: str) -> None:
        text = text.replace(ADDRESS, self.address or ADDRESS).replace(HTTP_ADDRESS, self.http_address or HTTP_ADDRESS)
        code = compile(text, "a page's block", "exec")
        end_s = time.monotonic() + 120
        while True:
            try:
                exec(code, self.names)
                return
            except (
                Exception
            ) as error:  # a slow machine cannot keep the 20 ms of the README; the server says so, for a retry
                if "shed" not in str(error) or time.monotonic() > end_s:
                    raise


@contextlib.contextmanager
def served(arguments: list[str]) -> Iterator[dict[str, Any]]:
    """A server of its own process; its addresses. It must end in order."""
    command = [sys.executable, "-m", "nested_sparse.serving.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            ready = process.stdout.readline()
            assert ready, process.stderr.read()
            yield json.loads(ready)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=180)
            assert process.returncode == 0, log
        finally:
            process.kill()


def check_readme(reader: Reader) -> None:
    """The recipe was reached, both levels answered, and the served answer keeps the accuracy that was asked for."""
    assert reader.reached == ["fashion-mnist"]
    assert Path("resnet20.safetensors").exists()
    assert reader.names["accuracy"][0] <= 1
    assert reader.names["sparse"].shape == reader.names["dense"].shape == (1, 10)
    answer = reader.names["answer"]
    assert answer.as_numpy("output").shape == (1, 10)
    assert answer.get_response().parameters["accuracy"].double_param >= 0.9
    reader.names["client"].close()


def check_training(reader: Reader) -> None:
    """Both recipes were reached; the last block made the model of three levels; a recipe takes the page's own data."""
    assert reader.reached == ["fashion-mnist", "mine"]
    assert reader.names["net"].level_count == 3
    text = next(body for _, body in blocks(ROOT / "docs/training.md") if "def squares" in body)
    Path("page_data.py").write_text(text)
    reader.patch.syspath_prepend(str(Path.cwd()))
    data = load_recipe("mine.toml", ["data.name=page_data:squares", "data.samples=64"]).load_data(0)
    assert sum(len(targets) for _, targets in data.batches(0)) == 64


def check_measuring(reader: Reader) -> None:
    """The slice was written."""
    assert Path("small.safetensors").exists()


def check_serving(reader: Reader) -> None:
    """The recipe was reached, and its texts came."""
    assert reader.reached == ["bytes"]


CHECKS: dict[str, Callable[[Reader], None]] = {
    "README.md": check_readme,
    "docs/training.md": check_training,
    "docs/measuring.md": check_measuring,
    "docs/serving.md": check_serving,
}
"""Files that must exist after the last block of a page."""


@pytest.mark.parametrize("page", pages())
def test_every_block_in_order(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with the docs, a recipe, arrivals and a checkpoint; a block finds what earlier blocks left."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "mine.toml").write_text(RECIPE)
    (tmp_path / "arrivals.npz").touch()
    if not any('"model.safetensors"' in text for language, text in blocks(ROOT / page) if language == "python"):
        # the page does not write its own
        shutil.copy(EXAMPLE, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    reader = Reader(given_names(), monkeypatch)
    texts = [text for _, text in blocks(ROOT / page)]
    if any("nest model.onnx" in text for text in texts) and not any('"model.onnx"' in text for text in texts):
        write_given_onnx(reader.names["model"], reader.names["example"])
    with contextlib.closing(reader.running):
        for language, text in blocks(ROOT / page):
            assert language in ("", "python", "toml"), f"{page}: a block of {language!r}: say here how it is tested"
            if language == "python":
                reader.python(text)
            elif language:
                Path("serve.toml").write_text(text)  # the file of a later line
            else:
                for line in text.splitlines():
                    reader.shell(line)
    CHECKS.get(page, lambda _: None)(reader)


def test_there_are_blocks_to_run() -> None:
    """The test above would otherwise pass for pages that it cannot read."""
    assert set(CHECKS) <= set(pages())
    found = [block for page in pages() for block in blocks(ROOT / page)]
    assert sum(language == "python" for language, _ in found) >= 5
    assert sum(len(text.splitlines()) for language, text in found if not language) >= 25
