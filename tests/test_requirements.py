"""Requirements: ranges in the package, to fit beside others, and exact versions in `make install`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

Requirement = pytest.importorskip("packaging.requirements", reason="packaging is not installed").Requirement
if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
INSTALLED = ("train", "bench", "dev")  # the extras that the Makefile installs


def name_of(requirement: str) -> str:
    """The name in the form in which package indexes compare names."""
    return re.sub(r"[-_.]+", "-", Requirement(requirement).name).lower()


def asked() -> dict[str, str]:
    """Every requirement that holds here, by name; that of tritonclient[grpc] too."""
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    wanted = [each for requirements in lists for each in requirements]
    return {name_of(each): each for each in wanted if (marker := Requirement(each).marker) is None or marker.evaluate()}


def pinned() -> dict[str, str]:
    """Version of each package in constraints.txt, for this Python."""
    lines = ROOT.joinpath("constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [pin for pin in pins if pin.marker is None or pin.marker.evaluate()]
    assert all(re.fullmatch(r"==[^*]+", str(pin.specifier)) for pin in here)
    return {name_of(pin.name): str(pin.specifier).removeprefix("==") for pin in here}


def test_no_requirement_is_exact() -> None:
    """A user with another release of torch, or of any library, can keep it."""
    for requirement in asked().values():
        operators = {specifier.operator for specifier in Requirement(requirement).specifier}
        assert not operators & {"==", "==="}, requirement


@pytest.mark.parametrize("version", ["2.8.0", "2.13.0", "2.14.1"])
def test_torch_is_a_range_from_the_oldest_to_the_newest_that_was_tested(version: str) -> None:
    """2.8 is the first that has torch.onnx.ops.symbolic, which the export is built on."""
    specifier = Requirement(asked()["torch"]).specifier
    assert specifier.contains(version)
    assert not specifier.contains("2.7.1")


def test_one_version_of_each_is_installed_and_within_what_is_asked_for() -> None:
    """`make install` would else bring whatever is newest: of torch, gigabytes of CUDA on a fresh machine."""
    extras = [each for extra in INSTALLED for each in PROJECT["optional-dependencies"][extra]]
    versions = pinned()
    for name in {name_of(each) for each in [*PROJECT["dependencies"], *extras]} & asked().keys():
        assert name in versions, f"constraints.txt pins no {name}"
        assert Requirement(asked()[name]).specifier.contains(versions[name]), name
    makefile = ROOT.joinpath("Makefile").read_text(encoding="utf-8")
    assert f'-c constraints.txt --no-build-isolation -e ".[{",".join(INSTALLED)}]"' in makefile
