"""C++ example: docs/examples/cpp/levels.cc, with ONNX Runtime's library, answers as Session does, bit for bit."""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from nested_sparse.kernels.library import library_path
from nested_sparse.runtime import Session
from nested_sparse.slice import slice_checkpoint
from support import EXAMPLE, ROOT

SOURCE = ROOT / "docs/examples/cpp/levels.cc"
BUILD = ROOT / "build/cpp"
"""The program stays here: it is built again where something that it is made of is newer."""
FILES = [EXAMPLE, *sorted((ROOT / "tests/golden").glob("*.safetensors"))]
HEADERS = [ROOT / "build/headers/onnxruntime", Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime")]


def built_program() -> Path:
    """The example, linked to the library of ONNX Runtime's wheel. Skips where a part of it cannot be had."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    headers = next((folder for folder in HEADERS if (folder / "onnxruntime_cxx_api.h").is_file()), None)
    if headers is None:
        pytest.skip("ONNX Runtime's C++ headers are not here: `make headers` brings them from Debian's package")
    if importlib.util.find_spec("nlohmann_json") is None:
        pytest.skip("nlohmann-json is not installed")
    libraries = sorted(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this ONNX Runtime keeps its library in its Python module, which no program can link")
    program = BUILD / "levels"
    made_of = [SOURCE, headers / "onnxruntime_cxx_api.h", libraries[-1]]
    if not program.exists() or program.stat().st_mtime < max(path.stat().st_mtime for path in made_of):
        BUILD.mkdir(parents=True, exist_ok=True)
        link = BUILD / "libonnxruntime.so.1"  # the name that the library has in the programs that need it
        link.unlink(missing_ok=True)
        link.symlink_to(libraries[-1])
        json_headers = str(importlib.resources.files("nlohmann_json") / "include")
        flags = ["-std=c++17", "-O0", "-Wall", "-Wextra", f"-I{headers}", "-isystem", json_headers]
        parts = [str(SOURCE), str(link), f"-Wl,-rpath,{BUILD}", "-o", f"{program}.new"]
        subprocess.run([compiler, *flags, *parts], check=True, timeout=600)
        Path(f"{program}.new").replace(program)
    return program


@pytest.fixture(scope="module")
def program() -> Path:
    return built_program()


def assert_answers_alike(program: Path, path: Path, folder: Path) -> None:
    """Every output of every level, of random inputs, by its bytes."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    with Session(path, threads=1) as session:
        inputs = {
            spec.name: rng.standard_normal(spec.example_shape).astype(spec.dtype).reshape(spec.example_shape)
            for spec in session.inputs
        }
        for name, value in inputs.items():
            (folder / f"{name}.raw").write_bytes(value.tobytes())
        command = [str(program), str(path), str(library_path()), str(folder)]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        assert len(said.stdout.splitlines()) == len(session.levels) * len(session.outputs)
        for level in range(len(session.levels)):
            for name, expected in session.run(inputs, level).items():
                assert (folder / f"{name}.level{level}.raw").read_bytes() == expected.tobytes(), (
                    path.stem,
                    name,
                    level,
                )


def test_every_file_answers_as_its_session(program: Path, tmp_path: Path) -> None:
    """The shipped example, files of every version, layout and value type, and a slice."""
    slice_checkpoint(EXAMPLE, 2, tmp_path / "slice.safetensors")
    for path in (*FILES, tmp_path / "slice.safetensors"):
        assert_answers_alike(program, path, tmp_path / f"of-{path.stem}")


@pytest.mark.parametrize("end", [4, 100, 5_000, 200_000])
def test_a_file_that_is_cut_is_refused(program: Path, tmp_path: Path, end: int) -> None:
    """In its length, in its header, in its graph, in a segment: a message, and no crash."""
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(EXAMPLE.read_bytes()[:end])
    done = subprocess.run([program, cut, library_path(), tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.startswith("levels: ")


@pytest.mark.parametrize("size", [0, 6, 28 * 28 * 4 - 1, 28 * 28 * 4 + 1])
def test_an_input_of_another_size_is_refused(program: Path, tmp_path: Path, size: int) -> None:
    """Neither filled up with zeros nor cut: the answer would be that of another input."""
    (tmp_path / "input.raw").write_bytes(bytes(size))
    done = subprocess.run([program, EXAMPLE, library_path(), tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr == "levels: input.raw: expected 3136 bytes\n"


def test_it_is_short() -> None:
    """Small enough to be read before it is taken over."""
    assert len(SOURCE.read_text(encoding="utf-8").splitlines()) <= 150
