"""Odd command lines: absurd files and figures give one line of error, never a traceback."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys

import numpy as np
import pytest

from chain import counting_chain
from nested_sparse.errors import InputError
from nested_sparse.runtime.simulation.traces import arrivals_of
from nested_sparse.serving import cli
from nested_sparse.serving.commands import serve


@pytest.fixture
def files(tmp_path):
    """A folder of odd files beside a checkpoint."""
    counting_chain(tmp_path / "net.safetensors", 2, 4, 3)
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    (tmp_path / "empty.npz").touch()
    (tmp_path / "zip.npz").write_bytes(b"PK\3\4 and nothing more")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    np.savez(tmp_path / "texts.npz", arrival_us=np.array(["a", "b"]))
    for name in ("pipe", "pipe.toml", "pipe.npz"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "folder").mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def _this_process_as_it_was(monkeypatch):
    """Verbs run in this one: what they set for a whole process stays out of it."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    monkeypatch.setattr(faulthandler, "enable", lambda: None)
    monkeypatch.setattr(serve, "limit_arenas", lambda: None)


FIGURES = ("99999999999999999999", "-99999999999999999999", "nan", "1e300")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("inspect {}/pipe", "not a regular file"),
        ("profile {}/pipe", "not a regular file"),
        ("slice {}/pipe --levels 1 -o {}/new", "not a regular file"),
        ("slice {}/net.safetensors --levels 1 -o {}/pipe --force", "a pipe"),
        ("slice {}/net.safetensors --levels 1 -o {}/folder --force", "is a folder"),
        ("slice {}/net.safetensors --levels 1 -o {}/" + "x" * 400, "cannot be written"),
        ("serve {}/pipe", "no such file"),
        ("train {}/pipe.toml", "no such file"),
        ("train {}/deep.toml", "is not TOML"),
        ("train digits --out {}/runs --set train.seed=" + "[" * 5000, "expected a whole number"),
        ("train digits --out {}/runs --seed 99999999999999999999", "from 0 to 9223372036854775807"),
        ("train digits --out {}/runs --set train.threads=99999999999999999999", "from 0 to 4096"),
        ("bench serving {}/net.safetensors --picture {}/pipe", "not a regular file"),
        ("bench serving {}/net.safetensors --picture {}/folder", "but a folder"),
        ("demo --out {}/demo --picture {}/pipe", "not a regular file"),
        ("bench kernels --density nan", "0<=x<=1"),
        ("demo --phase-s inf", "3600"),
        *((f"profile {{}}/net.safetensors --threads {figure}", "") for figure in FIGURES),
        *((f"profile {{}}/net.safetensors --batch {figure}", "") for figure in FIGURES),
        *((f"profile {{}}/net.safetensors --level {figure}", "") for figure in FIGURES),
        *((f"slice {{}}/net.safetensors -o {{}}/new --levels {figure}", "") for figure in FIGURES),
        *((f"serve {{}}/net.safetensors --port 0 --threads {figure}", "") for figure in FIGURES),
        *((f"serve {{}}/net.safetensors --port 0 --level {figure}", "") for figure in FIGURES),
    ],
)
def test_a_line_of_ours(files, monkeypatch, capsys, line, said):
    """It ends by itself, with 1 or, where the usage is wrong, 2; stderr says why."""
    arguments = [each.replace("{}", str(files)) for each in line.split()]
    monkeypatch.setattr(sys, "argv", ["nested-sparse", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    error = capsys.readouterr().err
    assert caught.value.code in (1, 2)
    assert "please report" not in error
    assert said in error if caught.value.code == 1 else error
    assert (files / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["empty", "zip", "array", "texts"])
def test_arrivals_that_are_none(files, name):
    """As --arrivals: whatever numpy makes of the file."""
    with pytest.raises(InputError, match=r"expected an \.npz with arrival_us"):
        arrivals_of(files / f"{name}.npz", 1.0, 1.0)
