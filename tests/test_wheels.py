"""Wheels: the files and the requirements of a wheel here; its library and its use on a bare system after `make wheels`.

The slow tests take the wheels from the folder that NESTED_SPARSE_WHEELS names, which must hold them, or from dist/.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import grpc
import numpy as np
import pytest

from nested_sparse.proto import messages
from nested_sparse.runtime import Session
from support import EXAMPLE, ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LIBRARY = "nested_sparse/kernels/libnested_sparse_kernels.so"
PROJECT = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text(encoding="utf-8"))
SETS = {
    "x86_64": {"scalar", "avx2", "avxvnni", "avx512", "avx512vnni"},
    "aarch64": {"scalar", "neon", "neondot"},
}
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
NEWEST_GLIBC = (2, 28)
"""That of ONNX Runtime's own wheels: a device that has them has it."""
ARM = ROOT / "build/arm"
ARM_TESTS = ("tests/test_format_page.py", "tests/kernels/test_library.py", "tests/kernels/test_levels.py")
LIST_SETS = "from nested_sparse.kernels import library; print(*{each.isa for each in library.kernels()})"


def shipped_sources() -> set[str]:
    """The files of a wheel that come from the source folders: all but C++ and byte code."""
    folders = PROJECT["tool"]["scikit-build"]["wheel"]["packages"]
    left_out = {".cc", ".h", ".inc", ".map", ".pyc"}
    return {
        str(Path(package) / path.relative_to(ROOT / folder))
        for package, folder in folders.items()
        for path in ROOT.joinpath(folder).rglob("*")
        if path.is_file() and path.suffix not in left_out
    }


def requirement_names(wheel: Path) -> set[str]:
    """Names of what `pip install` of the wheel brings directly, without extras."""
    requirements = pytest.importorskip("packaging.requirements", reason="packaging is not installed")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = message_from_bytes(archive.read(metadata)).get_all("Requires-Dist") or []
    asked = [requirements.Requirement(line) for line in lines]
    return {each.name for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})}


def assert_python_side(wheel: Path) -> None:
    """Every source and no other file, the command, our dependencies alone, and no path of this checkout."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        inside = {name for name in names if ".dist-info/" not in name} - {LIBRARY}
        assert inside == shipped_sources()
        (entry_points,) = (name for name in names if name.endswith(".dist-info/entry_points.txt"))
        assert b"nested-sparse" in archive.read(entry_points)
        assert [name for name in names if str(ROOT).encode() in archive.read(name)] == []
    asked = requirement_names(wheel)
    assert {"numpy", "onnxruntime", "grpcio", "protobuf", "safetensors"} <= asked
    stated = {re.split(r"[\s\[<>=;]", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert asked <= stated
    assert not {"torch", "onnx", "onnxscript", "matplotlib"} & asked


def test_the_python_side_of_a_wheel(tmp_path: Path) -> None:
    """A wheel without the library, which is packed in a second or two."""
    pytest.importorskip("scikit_build_core", reason="scikit-build-core is not installed")
    settings = ["-q", "--no-deps", "--no-build-isolation", "-C", "wheel.cmake=false", "-w", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *settings, str(ROOT)], check=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    assert_python_side(wheel)


def built(architecture: str) -> Path:
    """The wheel that `make wheels` has built."""
    folder = os.environ.get("NESTED_SPARSE_WHEELS")
    found = list(Path(folder or ROOT / "dist").glob(f"nested_sparse-*_{architecture}.whl"))
    if not found and not folder:
        pytest.skip(f"there is no wheel of {architecture} in dist/: `make wheels` builds it, and runs this test")
    (wheel,) = found
    return wheel


@pytest.mark.slow
@pytest.mark.parametrize("architecture", SETS)
def test_a_wheel_is_of_its_system(architecture: str, tmp_path: Path) -> None:
    """Its tags; the library needs only what such systems have, has no search path, and shows our names alone."""
    elffile = pytest.importorskip("elftools.elf.elffile", reason="pyelftools is not installed; `make wheels` does it")
    wheel = built(architecture)
    assert_python_side(wheel)
    tags = re.fullmatch(rf"nested_sparse-[\d.]+-py3-none-(.+_{architecture})\.whl", wheel.name)
    assert tags is not None
    versions = [(int(a), int(b)) for a, b in re.findall(r"manylinux_(\d+)_(\d+)_", tags[1])]
    assert versions
    assert min(versions) <= NEWEST_GLIBC
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if ".so" in name] == [LIBRARY]
        path = Path(archive.extract(LIBRARY, tmp_path))
    with path.open("rb") as file:
        elf = elffile.ELFFile(file)
        assert elf["e_machine"] == MACHINES[architecture]
        assert elf.get_section_by_name(".debug_info") is None
        dynamic = list(elf.get_section_by_name(".dynamic").iter_tags())
        assert [tag for tag in dynamic if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH")] == []
        needed = {tag.needed for tag in dynamic if tag.entry.d_tag == "DT_NEEDED"}
        assert {re.sub(r"-.*|\.so.*", "", name) for name in needed} <= {"libc", "libm", "libgcc_s", "ld"}
        symbols = elf.get_section_by_name(".dynsym").iter_symbols()
        shown = {each.name for each in symbols if each["st_shndx"] != "SHN_UNDEF"}
        assert "RegisterCustomOps" in shown
        assert [name for name in shown if not name.startswith(("RegisterCustomOps", "nested_sparse_"))] == []


def unpacked(architecture: str, folder: Path) -> Path:
    """The wheel's files in a folder."""
    with zipfile.ZipFile(built(architecture)) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the wheel is for x86-64")
def test_an_empty_environment_serves(tmp_path: Path) -> None:
    """`pip install` of the wheel, its dependencies from the registry: no torch, no compiler, the answers of Session."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    programs = tmp_path / "venv/bin"
    bare = {"PATH": str(programs), "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    constraints = ["-c", str(ROOT / "constraints.txt"), "--only-binary=:all:"]
    subprocess.run([programs / "pip", "install", "-q", *constraints, built("x86_64")], check=True, cwd=tmp_path)
    listed = subprocess.run([programs / "pip", "list", "--format=json"], check=True, capture_output=True, env=bare)
    assert not {"torch", "onnx", "scipy", "cmake"} & {each["name"] for each in json.loads(listed.stdout)}
    said = subprocess.run([programs / "python", "-c", LIST_SETS], check=True, capture_output=True, env=bare, text=True)
    assert set(said.stdout.split()) == SETS["x86_64"]
    command = [programs / "nested-sparse", "serve", EXAMPLE, "--port", "0", "--json", "--slo-ms", "60000"]
    x = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
    with (
        Session(EXAMPLE, threads=1) as session,
        subprocess.Popen(command, stdout=subprocess.PIPE, env=bare, cwd=tmp_path) as server,
    ):
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())["address"]
            with grpc.insecure_channel(address) as channel:
                infer = channel.unary_unary(
                    f"/{messages.SERVICE_NAME}/ModelInfer",
                    request_serializer=messages.ModelInferRequest.SerializeToString,
                    response_deserializer=messages.ModelInferResponse.FromString,
                )
                for level in range(len(session.levels)):
                    request = messages.ModelInferRequest(model_name=EXAMPLE.stem)
                    request.inputs.add(name="input", datatype="FP32", shape=x.shape)
                    request.raw_input_contents.append(x.tobytes())
                    request.parameters["level"].int64_param = level
                    answer = infer(request)
                    got = np.frombuffer(answer.raw_output_contents[0], np.float32)
                    expected = session.run({"input": x}, level)["output"].ravel()
                    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        finally:
            server.terminate()


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the emulator of tools/arm.sh runs on x86-64")
def test_the_other_architecture_computes(tmp_path: Path) -> None:
    """The wheel for aarch64, emulated: its kernels are all there, and the core of the tests passes."""
    built("aarch64")
    if not (ARM / "python").exists():
        pytest.skip("there is no emulated machine: `make wheels` or `make test-arm` makes it")
    paths = os.pathsep.join(map(str, (unpacked("aarch64", tmp_path), ARM / "site")))
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    for name in ("NESTED_SPARSE_LIBRARY", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    emulated = [str(ARM / "python"), "-P"]
    said = subprocess.run([*emulated, "-c", LIST_SETS], check=True, capture_output=True, env=environment, text=True)
    assert set(said.stdout.split()) == SETS["aarch64"]
    command = [*emulated, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ARM_TESTS]
    done = subprocess.run(command, capture_output=True, env=environment, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout[-1000:]
