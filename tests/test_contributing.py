"""Named files: the names in CONTRIBUTING.md, docs/architecture.md and the tables of docs/serving.md exist."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from nested_sparse.proto import messages
from nested_sparse.runtime import policy
from nested_sparse.runtime.resources import probes
from nested_sparse.runtime.scheduling.scheduler import REPLY_MARGIN_MS, REPLY_MARGIN_SHARE
from nested_sparse.serving.dataplane import Dataplane
from nested_sparse.serving.metrics import Metrics
from nested_sparse.serving.servicer import Servicer, generic_handler
from nested_sparse.trainer import TrainConfig, nestings, schedules
from nested_sparse.trainer.model import layers
from nested_sparse.trainer.recipes import recipe
from support import ROOT

PAGES = ("CONTRIBUTING.md", "docs/architecture.md")
TOPS = ("nested_sparse", "kernels", "runtime", "trainer", "serving", "proto", "tests", "tools", "docs")
NAMED = re.compile(r"`((?:[\w.{}*-]+/)+[\w.{}*-]*|\w+\.(?:md|toml|txt)|Makefile)(?:: ([\w, ]+))?`")
"""A path in backticks, and after a colon the names that the file defines."""


def named(text: str) -> Iterator[tuple[str, list[str]]]:
    """(path, symbols) of each path that a page names."""
    for path, symbols in NAMED.findall(" ".join(text.split())):
        yield path, symbols.split(", ") if symbols else []


def faults(text: str) -> list[str]:
    """The paths and symbols of a page that are not there; a part in braces stands for a new name beside others."""
    wrong = []
    for path, symbols in named(text):
        files = list(ROOT.glob(re.sub(r"\{\w+\}", "*", path).rstrip("/")))
        if not files:
            wrong.append(path)
        for symbol in symbols if files else ():
            if not defines(files[0].read_text(encoding="utf-8"), symbol, files[0].suffix):
                wrong.append(f"{path}: {symbol}")
    return wrong


def defines(source: str, symbol: str, suffix: str) -> bool:
    """Python: a function, class, constant or field of that name; other languages: the word."""
    if suffix != ".py":
        return re.search(rf"\b{re.escape(symbol)}\b", source) is not None
    return re.search(rf"^\s*((async )?def|class) {symbol}\b|^\s*{symbol}\b(:| =)", source, re.MULTILINE) is not None


@pytest.mark.parametrize("page", PAGES)
def test_paths_and_symbols_are_there(page: str) -> None:
    """Each list names what a change touches; a list that names a file of long ago misleads."""
    text = ROOT.joinpath(page).read_text(encoding="utf-8")
    assert len(list(named(text))) >= 30
    assert faults(text) == []


@pytest.mark.parametrize("page", sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md")))
def test_paths_in_other_pages_are_there(page: str) -> None:
    """Decisions too: a file that has moved is named where it is now. A path has to begin at the root to be checked."""
    text = ROOT.joinpath(page).read_text(encoding="utf-8")
    assert [fault for fault in faults(text) if fault.split("/")[0] in TOPS] == []


def test_a_name_that_is_gone_is_found() -> None:
    """A missing file, a missing symbol, a new name in a folder that is not there."""
    page = (
        "`serving/gone.py` `serving/load.py: load_model, gone` `kernels/spmm/{isa}.cc` `kernels/gone/{isa}.cc` `gone`"
    )
    assert faults(page) == ["serving/gone.py", "serving/load.py: gone", "kernels/gone/{isa}.cc"]


def test_architecture_names_every_room() -> None:
    """Each folder of sources but the inner ones of a named folder."""
    text = ROOT.joinpath("docs/architecture.md").read_text(encoding="utf-8")
    assert [top for top in TOPS if f"{top}/ " not in text] == []
    rooms = [f"{path.parent.relative_to(ROOT)}/" for top in TOPS[2:5] for path in ROOT.glob(f"{top}/*/__init__.py")]
    assert [room for room in rooms if f"`{room}" not in text] == []


def classes(package: ModuleType, is_kind: Callable[[type], bool]) -> set[str]:
    """Names of the classes that the package's modules define and that are of a kind."""
    modules = [
        importlib.import_module(f"{package.__name__}.{each.name}") for each in pkgutil.iter_modules(package.__path__)
    ]
    return {
        name
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and is_kind(value)
    }


def test_every_schedule_and_nesting_has_a_name() -> None:
    """A file that defines one is in the registry, which recipes read."""
    found = classes(schedules, lambda kind: hasattr(kind, "search") and hasattr(kind, "from_scratch"))
    assert found - {"Schedule"} == {kind.__name__ for kind in schedules.SCHEDULES.values()}
    found = classes(nestings, lambda kind: hasattr(kind, "stages"))
    assert found - {"Nesting"} == {kind.__name__ for kind in nestings.NESTINGS.values()}


def test_only_a_layer_knows_its_kind() -> None:
    """A new kind of nested layer is a file among `layers` and an entry: no other part of the trainer names a kind."""
    names = classes(layers, lambda kind: issubclass(kind, layers.NestedLayer)) - {"NestedLayer"}
    assert names >= {kind.__name__ for kind in layers.KINDS.values()}
    kinds = re.compile(rf"\b({'|'.join(names)})\b")
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.glob("trainer/**/*.py")}
    found = {path for path, source in sources.items() if kinds.search(source)}
    assert "trainer/model/layers/__init__.py" in found
    assert [path for path in sorted(found) if not path.startswith("trainer/model/layers/")] == []


def test_every_policy_is_offered() -> None:
    """The room offers each class that can choose a level."""
    assert classes(policy, lambda kind: hasattr(kind, "choose")) <= set(policy.__all__)


def test_every_probe_is_asked() -> None:
    """Each public function that returns readings by name is one of the default probes."""
    found = {
        name
        for name, value in vars(probes).items()
        if getattr(value, "__annotations__", {}).get("return") == "dict[str, float]" and not name.startswith("_")
    }
    assert found == {each.func.__name__ for each in probes.default_probes()}  # type: ignore[attr-defined]


def test_every_rpc_is_answered() -> None:
    """Each method of the .proto has a handler, and the serving page names it."""
    rpcs = [method.name for method in messages.POOL.FindServiceByName(messages.SERVICE_NAME).methods]
    handler = generic_handler(Servicer(Dataplane([]), Metrics()))

    class Details:
        invocation_metadata = ()

        def __init__(self, name: str) -> None:
            self.method = f"/{messages.SERVICE_NAME}/{name}"

    assert rpcs
    assert [name for name in rpcs if handler.service(Details(name)) is None] == []
    assert [name for name in rpcs if f"`{name}`" not in read("docs/serving.md")] == []


def test_the_serving_page_has_every_parameter_and_metric() -> None:
    """Parameters as the converter reads and writes them; metrics as Prometheus names them."""
    page = ROOT.joinpath("docs/serving.md").read_text(encoding="utf-8")
    source = ROOT.joinpath("serving/protocol/parameters.py").read_text(encoding="utf-8")
    parameters = set(re.findall(r'\(parameters, "(\w+)"|"(\w+)": InferParameter|parameters\["(\w+)"\]', source))
    names = {name for found in parameters for name in found if name}
    assert {"slo_ms", "level", "queue_us", "lowered_at"} <= names
    metrics = {f"{each.name}_total" if each.type == "counter" else each.name for each in Metrics().registry.collect()}
    assert "nested_sparse_late_total" in metrics
    assert [name for name in sorted(names | metrics) if f"`{name}`" not in page] == []


def test_the_training_page_has_every_name_of_a_recipe() -> None:
    """Names that a recipe may give, its tables, their keys, and the defaults of methods."""
    page = read("docs/training.md")
    options = [field.name for kind in (recipe.RunOptions, recipe.OutputOptions) for field in dataclasses.fields(kind)]
    names = [*recipe.DATA, *recipe.MODELS, *recipe.SCHEDULES, *recipe.NESTINGS, *recipe.LOSSES, *options]
    assert [name for name in names if f"`{name}`" not in page] == []
    assert [table for table in recipe.TABLES if f"`[{table}]`" not in page] == []
    kinds = {**recipe.SCHEDULES, **recipe.NESTINGS, "[train]": TrainConfig}
    rows = {name: section(page, name) for name in kinds}
    keys = [(name, field) for name, kind in kinds.items() for field in dataclasses.fields(kind)]
    assert [(name, field.name) for name, field in keys if f"`{field.name}`" not in rows[name]] == []
    stated = [(name, field, re.search(rf"`{field.name}` \(([^)]*)\)", rows[name])) for name, field in keys]
    defaults = [(name, field, found[1]) for name, field, found in stated if found]
    assert len(defaults) >= 30
    assert [each for *each, said in defaults if said != stated_as(each[1].default)] == []


def stated_as(default: object) -> str:
    """A default as the page writes it: truth values as in TOML."""
    return str(default).lower() if isinstance(default, bool) else str(default)


def section(page: str, name: str) -> str:
    """The row of a method's settings; all of the table of settings that begins with `name`."""
    settings = page.partition("## Settings")[2]
    line, rest = re.findall(rf"^(\| `{re.escape(name)}` \|.*\n)((?:\|.*\n)*)", settings, re.MULTILINE)[0]
    return str(line + rest) if name.startswith("[") else str(line)


def test_the_serving_page_states_the_reply_margin() -> None:
    """The two constants, and the numbers that follow from them."""
    page = read("docs/serving.md")
    assert f"keeps {REPLY_MARGIN_MS:g} ms and {100 * REPLY_MARGIN_SHARE:g} %" in page
    assert f"{20 * (1 - REPLY_MARGIN_SHARE) - REPLY_MARGIN_MS:.1f} ms for 20 ms" in page
    assert f"{REPLY_MARGIN_MS / (1 - REPLY_MARGIN_SHARE):.2f} ms or less" in page


def test_every_instruction_set_has_its_loops() -> None:
    """Each value of `Isa` has a file in each folder of loops, in the build, and a place in the documents."""
    sets = re.findall(r"\w+", re.findall(r"enum class Isa : int32_t \{(.*?)\}", read("kernels/isa.h"))[0])
    sources = [f"kernels/{folder}/{name}.cc" for folder in ("spmm", "gemv", "gather") for name in sets]
    assert "kernels/spmm/avx512.cc" in sources
    assert [path for path in sources if not (ROOT / path).is_file() or path not in read("CMakeLists.txt")] == []
    assert [name for name in sets if f"`{name}`" not in read("docs/measuring.md")] == []


def read(path: str) -> str:
    """A file of the repository."""
    return ROOT.joinpath(path).read_text(encoding="utf-8")
