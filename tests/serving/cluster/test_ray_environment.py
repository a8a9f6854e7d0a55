"""The environment of `make test-ray`: it has all that the tests of the cluster import."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import tomllib

from support import ROOT

FILES = ("conftest.py", "serving/conftest.py", "serving/cluster/conftest.py", "serving/cluster/test_ray_serve.py")
NAMES = {"google": "protobuf", "grpc": "grpcio", "grpc_health": "grpcio-health-checking"}
"""Names of distributions that differ from those of their modules."""


def imported(path: Path, seen: set[Path]) -> set[str]:
    """The modules that a test file imports at its top, those of the helpers in tests/ included."""
    seen.add(path)
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            names |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    for helper in [ROOT / "tests" / f"{name}.py" for name in names]:
        if helper.exists() and helper not in seen:
            names |= imported(helper, seen)
    return names


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no tomllib")
def test_every_library_of_the_tests_is_installed() -> None:
    found = re.search(r'VENV\)-ray/bin/pip install .* -e "\.\[ray\]" (.+)', (ROOT / "Makefile").read_text())
    assert found is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["ray"], *found[1].replace('"', "").split()]
    installed = {re.split(r"[^\w-]", each)[0].lower() for each in asked}
    seen: set[Path] = set()
    names = {name for file in FILES for name in imported(ROOT / "tests" / file, seen)}
    names -= {path.stem for path in seen} | set(sys.stdlib_module_names) | {"nested_sparse"}
    assert {"hypothesis", "grpcio"} <= {NAMES.get(name, name) for name in names}
    assert {NAMES.get(name, name) for name in names} <= installed
