"""Import rules: the directions between folders, between the rooms of runtime/, and to other libraries.

The rules are this file's tables. Each exception names one module and its reason, and one that nothing needs any more
fails. Imports are read from the sources (tests/imports.py), those in functions and those for type checkers included.

Ruff's TID251 used to refuse `import runtime`, which from the repository's root finds a second module beside
`nested_sparse.runtime`, with other classes. It takes `from .runtime import …` for the same, so it is no longer used,
and this file refuses the bare names.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping

import pytest

from imports import (
    FOLDERS,
    OUTSIDE,
    PACKAGE,
    Import,
    Sources,
    folder_of,
    module_name,
    offered,
    packages_around,
    parsed,
    read_imports,
    repository_sources,
    room_of,
)
from support import ROOT

LAYERS = ("core", "kernels", "runtime", "trainer", "serving")
"""A folder imports from those left of it, as far as MAY_IMPORT and MAY_REACH say. `proto` stands apart."""

MAY_IMPORT: Mapping[str, set[str]] = {
    "core": set(),
    "proto": set(),
    "kernels": {"core"},
    "runtime": {"core", "kernels"},
    "trainer": {"core"},
    "serving": {"core", "runtime", "proto"},
}
"""Folders that every module of a folder may import."""

MAY_REACH: Mapping[tuple[str, str], str] = {
    (
        "trainer.demo",
        "runtime",
    ): "the demo's metrics are those of the file, run on this device, and so are its reroutes",
    ("trainer.export.row_mark", "runtime"): "whether rows are independent is seen by running the file",
    ("trainer.file_model", "runtime"): "a file's answers are those of the file, run as a device runs it",
    ("trainer.tasks.detection", "runtime"): "a level is scored by the detections that a client makes of its output",
    ("trainer.tasks.instance_segmentation", "runtime"): "the same, with their masks",
    ("trainer.reroute", "runtime"): "lowered inferences of a file are those of its own operators",
    ("trainer.export.int8.calibrate", "runtime"): "ranges are those of the file's own operators, in float32",
    ("trainer.export.verify", "runtime"): "export compares what it wrote, run at every level, with torch",
    ("trainer.export.trial_inputs", "runtime"): "the inputs of that comparison are drawn as the runtime draws its own",
    ("serving.bench.kernels.measure", "kernels"): "a benchmark states the instruction set that ran",
    ("serving.bench.kernels.dense", "trainer"): "the dense side is the same torch model, exported by the same means",
    ("serving.bench.kernels.model_cache", "trainer"): "the benchmarks' models are nested and exported on the spot",
    ("serving.bench.networks.measure", "trainer"): "the networks are nested and exported on the spot",
    ("serving.commands.bench_networks", "trainer"): "the table of networks, which torch makes",
    ("serving.bench.front.trivial", "trainer"): "the model of the benchmark is exported on the spot",
    ("serving.bench.serving.workload", "trainer"): "the load is the demo's model and its test images",
    ("serving.commands.nest", "trainer"): "the verb `nest`",
    ("serving.commands.train", "trainer"): "the verb `train`",
    ("serving.demo.run", "trainer"): "the demo trains what it serves",
}
"""Reasons for imports of one module from a folder beyond MAY_IMPORT, by (module, folder)."""

ROOMS: Mapping[str, int] = {
    "resources": 0,
    "cuda": 0,
    "detection": 0,
    "session": 1,
    "joining": 2,
    "rerouting": 2,
    "profiling": 2,
    "policy": 3,
    "scheduling": 4,
    "simulation": 5,
    "generation": 5,
}
"""Rooms of runtime/: each imports from rooms of a lower number only."""

DEVICE_LIBRARIES = {"numpy", "onnxruntime", "google", "grpc", "grpc_health", "grpc_reflection", "psutil"}
DEVICE_LIBRARIES |= {"click", "tabulate", "prometheus_client", "tomli"}
MAY_USE: Mapping[str, set[str]] = {
    "core": {"numpy", "tomli"},
    "proto": {"google"},
    "kernels": {"numpy", "onnxruntime"},
    "runtime": {"numpy", "onnxruntime"},
    "trainer": {"numpy", "torch", "onnx_ir", "onnxscript", "sklearn", "matplotlib", "rich", "pycocotools"},
    "serving": DEVICE_LIBRARIES - {"tomli"} | {"matplotlib", "tritonclient"},
}
"""Top-level names of the libraries, beside Python's own, that a folder imports."""

MAY_USE_TOO: Mapping[tuple[str, str], str] = {
    ("runtime.cuda.node", "torch"): "the extra [gpu]: a session on a GPU computes in torch",
    ("runtime.cuda.attention", "torch"): "the same",
    ("runtime.cuda.elementwise", "torch"): "the same",
    ("runtime.cuda.elementwise", "onnx"): "the extra [gpu]: reads the graph of a session on a GPU",
    ("runtime.cuda.shapes", "torch"): "the same",
    ("runtime.cuda.shapes", "onnx"): "the same",
    ("runtime.cuda.products", "torch"): "the same",
    ("runtime.cuda.layers", "torch"): "the same",
    ("runtime.cuda.run_level", "torch"): "the same",
    ("runtime.cuda.torch_graph", "torch"): "the same",
    ("runtime.cuda.torch_graph", "onnx"): "the same",
    ("runtime.session.device", "torch"): "asks for a CUDA device, where the session is to run on one",
    ("kernels.gpu.weight", "torch"): "the extra [gpu]: tensors on the device",
    ("kernels.gpu.operands", "torch"): "the same",
    ("kernels.gpu.linear", "torch"): "the same",
    ("kernels.gpu.conv", "torch"): "the same",
    ("kernels.gpu.matmul", "torch"): "the same",
    ("kernels.gpu.matmul", "triton"): "the extra [gpu]: the language of its kernels",
    ("kernels.gpu.epilogue", "triton"): "the same",
    ("kernels.gpu.layer_norm", "torch"): "the same",
    ("kernels.gpu.layer_norm", "triton"): "the same",
    ("kernels.gpu.lines", "torch"): "the same",
    ("kernels.gpu.tiles", "torch"): "the same",
    ("kernels.gpu.tiles", "triton"): "the same",
    ("kernels.gpu.tune", "triton"): "the same",
    ("proto.build", "grpc_tools"): "`make proto` generates the messages by it; what serves does not import it",
    ("serving.bench.kernels.dense", "torch"): "the dense side is a torch model",
    ("serving.bench.kernels.layers", "onnx"): "reads graphs node by node",
    ("serving.bench.kernels.peers.integer_form", "onnx"): "rewrites a peer's model node by node",
    ("serving.bench.kernels.model_cache", "torch"): "makes the models that are measured",
    ("serving.bench.kernels.peers.rows", "torch"): "the same inputs for every engine",
    ("serving.bench.networks.measure", "torch"): "the models and their answers are torch's",
    ("serving.bench.front.trivial", "torch"): "makes the model that is called",
    ("serving.commands.bench_front", "torch"): "checks that torch is there, which makes the models",
    ("serving.signature", "cryptography"): "an extra, imported when a signature is made or checked",
    ("serving.commands.bench_kernels", "torch"): "checks that torch is there, which makes every row's model",
    ("serving.bench.kernels.peers.worker", "MNN"): "one of the engines beside ours",
    ("serving.bench.kernels.peers.worker", "deepsparse"): "one of the engines beside ours",
    ("serving.bench.loadgen.run", "mlperf_loadgen"): "the load generator of that benchmark",
    ("serving.bench.kernels.peers.worker", "openvino"): "one of the engines beside ours",
    ("serving.http.connections", "aiohttp"): "the extra [http]; imported where --http-port is given",
    ("serving.http.failure", "aiohttp"): "the same",
    ("serving.http.http_server", "aiohttp"): "the same",
    ("serving.cluster.ray_serve", "ray"): "the extra [ray]; Ray Serve imports this module, nothing of ours does",
    ("serving.spans", "opentelemetry"): "the extra [otel]; imported where --otlp-endpoint is given",
    ("trainer.export.attention", "onnx"): "onnxscript takes the name of our operator from a schema",
    ("trainer.export.int8.tables", "onnx"): "an activation function is computed by the graph's own nodes",
    ("trainer.export.int8.tables", "onnxruntime"): "the same",
    ("trainer.from_onnx.read", "onnx"): "reads types that onnx_ir does not know, to leave them out",
    ("trainer.from_onnx.prepare", "onnx"): "names the type of a model that is run as it was read",
    ("trainer.from_onnx.sparse", "onnx"): "onnx_ir has no sparse tensors",
    ("trainer.from_onnx.segments", "onnx"): "a part of an ONNX graph is a graph of its own, for ONNX Runtime",
    ("trainer.from_onnx.segments", "onnxruntime"): "the nodes of an ONNX file between its layers are run by it",
}

OFF_DEVICE = (
    "nested_sparse.kernels.gpu",
    "nested_sparse.runtime.cuda",
    "nested_sparse.trainer",
    "nested_sparse.serving.bench",
    "nested_sparse.serving.cluster",
    "nested_sparse.serving.demo",
    "nested_sparse.serving.http",
    "nested_sparse.serving.spans",
)
"""Packages that are not needed to serve over gRPC, and may import at once what a device does not have."""

SOURCES = repository_sources(ROOT)


def faults(sources: Sources) -> list[str]:
    """Each import that breaks a rule, and each package without a sentence that says what it is for."""
    imports = read_imports(sources)
    rules = (bare_names, relative_inside, directions, rooms, libraries, device)
    broken = [fault for rule in rules for fault in rule(imports)]
    return [*broken, *doors(imports, offered(sources)), *sentences(sources)]


def ours(imports: list[Import]) -> Iterator[tuple[Import, str, str]]:
    """Imports between installed modules, with the folders of both."""
    for each in imports:
        here, there = folder_of(each.importer), folder_of(each.target)
        if here not in OUTSIDE and there not in ("", *OUTSIDE):
            yield each, here, there


def short(module: str) -> str:
    """The module's name without the package's."""
    return module.removeprefix(f"{PACKAGE}.")


def bare_names(imports: list[Import]) -> Iterator[str]:
    """Everywhere, tests and tools included."""
    for each in imports:
        if each.target.split(".")[0] in FOLDERS:
            yield f"{each}: a second module; import it as {PACKAGE}.{each.target}"


def relative_inside(imports: list[Import]) -> Iterator[str]:
    """Relative inside a top-level folder, `nested_sparse.…` across."""
    for each, here, there in ours(imports):
        if each.relative != (here == there):
            yield f"{each}: {'import it relatively' if here == there else f'import it as {each.target}'}"


def directions(imports: list[Import]) -> Iterator[str]:
    """The faults of MAY_IMPORT and MAY_REACH."""
    for each, here, there in ours(imports):
        if there != here and there not in MAY_IMPORT[here] and (short(each.importer), there) not in MAY_REACH:
            yield f"{each}: {here} does not import {there}"


def rooms(imports: list[Import]) -> Iterator[str]:
    """The faults of ROOMS."""
    for each in imports:
        here, there = room_of(each.importer), room_of(each.target)
        if not here or not there or here == there:
            continue
        if not {here, there} <= ROOMS.keys() or ROOMS[there] >= ROOMS[here]:
            yield f"{each}: the room {there} is not below {here}"


def doors(imports: list[Import], all_of: Mapping[str, list[str]]) -> Iterator[str]:
    """A room of runtime/ is entered through its `__init__`, for what its `__all__` offers."""
    for each, here, there in ours(imports):
        room = room_of(each.target)
        if there != "runtime" or (here == "runtime" and room == room_of(each.importer)):
            continue
        if each.target.count(".") > 2 or (room and not each.name):
            yield f"{each}: import a name that the room offers"
        elif each.name not in all_of.get(each.target, []):
            yield f"{each}: not in {each.target}.__all__"


def libraries(imports: list[Import]) -> Iterator[str]:
    """The faults of MAY_USE and MAY_USE_TOO."""
    for each in imports:
        here, library = folder_of(each.importer), each.target.split(".")[0]
        if here in OUTSIDE or library in (PACKAGE, *FOLDERS) or library in sys.stdlib_module_names:
            continue
        if library not in MAY_USE[here] and (short(each.importer), library) not in MAY_USE_TOO:
            yield f"{each}: {here} does not use {library}"


def device(imports: list[Import]) -> Iterator[str]:
    """No module that serves loads, by itself or by what it loads, a library that a device does not have."""
    loaded: dict[str, list[Import]] = {}
    for each in imports:
        if not each.deferred:
            loaded.setdefault(each.importer, []).append(each)
    for start in sorted({each.importer for each in imports if folder_of(each.importer) not in OUTSIDE}):
        if any(package in OFF_DEVICE for package in packages_around(start)) or start == f"{PACKAGE}.proto.build":
            continue
        waiting, seen = [start], {start}
        while waiting:
            for each in loaded.get(waiting.pop(), []):
                library = each.target.split(".")[0]
                if library != PACKAGE and library not in DEVICE_LIBRARIES | sys.stdlib_module_names:
                    yield f"{each}: {start} loads it, and a device does not have {library}"
                new = {name for name in packages_around(each.target) if name not in seen}
                waiting += new
                seen |= new


def sentences(sources: Sources) -> Iterator[str]:
    """The docstring of each package begins with one sentence on one line; more may follow in other paragraphs."""
    for path, source in sources.items():
        if path.endswith("__init__.py") and path.split("/")[0] not in OUTSIDE:
            first = (ast.get_docstring(parsed(source)) or "").partition("\n\n")[0]
            if not re.fullmatch(r"\S+ [^\n]+\.", first) or re.search(r"[.!?] [A-Z]", first):
                yield f"{path}: its docstring is to say in one sentence what the package is for, got {first!r}"


def test_imports_follow_the_rules() -> None:
    """Each line is one import, by file and line, and the rule that it breaks."""
    assert faults(SOURCES) == []


def test_every_room_has_its_place() -> None:
    """A new room of runtime/ is entered in ROOMS."""
    assert {room_of(module_name(path)) for path in SOURCES} - {""} == ROOMS.keys()


def test_exceptions_go_leftwards_and_are_needed() -> None:
    """An exception names who may import more, never an arrow the other way; one that is not needed goes."""
    for importer, folder in MAY_REACH:
        assert LAYERS.index(folder) < LAYERS.index(importer.split(".")[0])
    imports = read_imports(SOURCES)
    assert {(short(each.importer), there) for each, _, there in ours(imports)} >= MAY_REACH.keys()
    assert {(short(each.importer), each.target.split(".")[0]) for each in imports} >= MAY_USE_TOO.keys()
    used = {(folder_of(each.importer), each.target.split(".")[0]) for each in imports}
    assert used >= {(folder, library) for folder, names in MAY_USE.items() for library in names}


ROOM = {
    "runtime/__init__.py": '"""How a model adapts."""\nfrom .session import Session\n__all__ = ["Session"]',
    "runtime/session/__init__.py": '"""One checkpoint, open."""\nfrom .session import Session\n__all__ = ["Session"]',
    "runtime/session/session.py": "class Session: ...",
    "runtime/policy/__init__.py": '"""The level of a request."""\n__all__ = ["Decision"]',
    "runtime/policy/base.py": "from ..session import Session",
}
"""Sources that break no rule."""


@pytest.mark.parametrize(
    ("path", "source", "said"),
    [
        ("tests/test_x.py", "import runtime", "a second module"),
        ("tools/x.py", "from kernels import library", "a second module"),
        ("nested_sparse/x.py", "from nested_sparse.mask import f", "import it relatively"),
        ("runtime/session/x.py", "from nested_sparse.runtime.session import Session", "import it relatively"),
        ("runtime/session/x.py", "from ...kernels import library", "import it as nested_sparse.kernels"),
        ("serving/x.py", "from nested_sparse.trainer import nest", "serving does not import trainer"),
        ("serving/x.py", "def f():\n    import nested_sparse.trainer.train", "serving does not import trainer"),
        ("trainer/x.py", "from nested_sparse.serving import cli", "trainer does not import serving"),
        ("runtime/session/x.py", "from nested_sparse.proto import messages", "runtime does not import proto"),
        (
            "nested_sparse/x.py",
            "if TYPE_CHECKING:\n    from nested_sparse.runtime import Session",
            "core does not import",
        ),
        ("runtime/session/x.py", "from ..policy import Decision", "the room policy is not below session"),
        ("runtime/joining/x.py", "try:\n    from ..rerouting import f\nfinally: ...", "rerouting is not below joining"),
        ("runtime/attic/__init__.py", '"""A new room."""\nfrom ..session import Session', "session is not below attic"),
        ("runtime/policy/x.py", "from ..session.session import Session", "a name that the room offers"),
        ("runtime/policy/x.py", "from .. import session", "a name that the room offers"),
        ("serving/x.py", "from nested_sparse.runtime.session import session", "a name that the room offers"),
        ("serving/x.py", "import nested_sparse.runtime.session", "a name that the room offers"),
        ("runtime/policy/x.py", "from ..session import Arena", "not in nested_sparse.runtime.session.__all__"),
        ("serving/x.py", "from nested_sparse.runtime import Arena", "not in nested_sparse.runtime.__all__"),
        ("nested_sparse/x.py", "import onnxruntime", "core does not use onnxruntime"),
        ("runtime/session/x.py", "def f():\n    import torch", "runtime does not use torch"),
        ("trainer/x.py", "import grpc.aio", "trainer does not use grpc"),
        ("serving/commands/bench_kernels.py", "import torch", "a device does not have torch"),
        ("serving/x/__init__.py", "", "in one sentence"),
        ("serving/x/__init__.py", '"""Two things. And more."""', "in one sentence"),
    ],
)
def test_a_wrong_source_is_found(path: str, source: str, said: str) -> None:
    """Every rule, by a source that breaks it alone."""
    assert faults(ROOM) == []
    assert [fault for fault in faults({**ROOM, path: source}) if said in fault and path in fault]


def test_a_module_that_loads_a_library_is_found_through_other_modules() -> None:
    """The serving module imports a module of the benchmarks, and that one imports torch."""
    bench = {"serving/bench/kernels/dense.py": "import torch"}
    assert faults(bench) == []
    eager = faults({**bench, "serving/x.py": "from .bench.kernels import dense"})
    assert len(eager) == 1
    assert "nested_sparse.serving.x loads it" in eager[0]
    assert faults({**bench, "serving/x.py": "def f():\n    from .bench.kernels import dense"}) == []
