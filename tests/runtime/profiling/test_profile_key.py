"""Profile key: equal on the same machine, changed by anything that changes latency."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from nested_sparse.runtime.profiling import profile_key as module
from nested_sparse.runtime.profiling.profile_key import profile_key

SESSION = SimpleNamespace(digest="abc", isa="avx2", threads=2, spin=False)


def machine(root: Path, cpuinfo: str = "processor : 0\nmodel name : A\n", machine_id: str = "1234") -> Path:
    for path, text in (("proc/cpuinfo", cpuinfo), ("etc/machine-id", machine_id), ("proc/self/cgroup", "")):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_the_same_machine_gives_the_same_key(tmp_path: Path) -> None:
    """A round trip through JSON keeps the key."""
    root = machine(tmp_path)
    key = profile_key(SESSION, 16, root)  # type: ignore[arg-type]
    assert key == profile_key(SESSION, 16, root) == json.loads(json.dumps(key))  # type: ignore[arg-type]


def test_the_machine_id_stays_at_home(tmp_path: Path) -> None:
    """Only a digest of the machine's id is written."""
    root = machine(tmp_path, machine_id="feedfacecafebeef")
    assert "feedfacecafebeef" not in json.dumps(profile_key(SESSION, 16, root))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"session": SimpleNamespace(**{**vars(SESSION), "digest": "def"})},
        {"session": SimpleNamespace(**{**vars(SESSION), "threads": 1})},
        {"session": SimpleNamespace(**{**vars(SESSION), "spin": True})},
        {"session": SimpleNamespace(**{**vars(SESSION), "isa": "scalar"})},
        {"max_batch": 8},
        {"cpuinfo": "model name : B"},
        {"machine_id": "5678"},
        {"library": b"another build"},
        {"onnxruntime": "0.0.1"},
        {"cores": 7},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_latency_changes_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    """One fact at a time."""
    before = profile_key(SESSION, 16, machine(tmp_path / "before"))  # type: ignore[arg-type]
    files = {name: str(change[name]) for name in ("cpuinfo", "machine_id") if name in change}
    root = machine(tmp_path / "after", **files)
    if "library" in change:
        (tmp_path / "other.so").write_bytes(change["library"])  # type: ignore[arg-type]
        monkeypatch.setenv("NESTED_SPARSE_LIBRARY", str(tmp_path / "other.so"))
    if "onnxruntime" in change:
        monkeypatch.setattr(module.ort, "__version__", change["onnxruntime"])
    if "cores" in change:
        monkeypatch.setattr(module, "usable_cores", lambda root: change["cores"])
    assert profile_key(change.get("session", SESSION), change.get("max_batch", 16), root) != before  # type: ignore[arg-type]
