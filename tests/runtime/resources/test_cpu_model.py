"""CPU model: the name of the processor, also of one with several kinds of cores."""

from __future__ import annotations

from pathlib import Path

import pytest

from nested_sparse.runtime.resources import cpu_model


@pytest.mark.parametrize(
    ("cpuinfo", "named"),
    [
        ("processor : 0\nmodel name : A\nprocessor : 1\nmodel name : A\n", "A"),
        (
            "processor : 0\nCPU part : 0xd05\nprocessor : 1\nCPU part : 0xd0a\nprocessor : 2\nCPU part : 0xd0a\n",
            "0xd05, 0xd0a",
        ),
    ],
    ids=["x86", "arm"],
)
def test_every_kind_of_core_is_named_once(tmp_path: Path, cpuinfo: str, named: str) -> None:
    """x86 kernels print a name, Arm kernels part numbers, for each core."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(cpuinfo)
    assert cpu_model(tmp_path) == named


def test_without_proc_there_is_still_an_answer(tmp_path: Path) -> None:
    """Without /proc the answer is Python's name of the processor."""
    assert cpu_model(tmp_path / "nowhere")
