"""Recipe: a training run as a TOML file. Every key and value is checked before data or weights are loaded."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nested_sparse.argument import shown
from nested_sparse.errors import NestedSparseError, TrainingError
from nested_sparse.excerpt import excerpt
from nested_sparse.options import Problems, checked_options, options_of, unknown
from nested_sparse.toml_file import parse_toml, read_toml
from nested_sparse.value_type import INT8, VALUE_TYPES

from ..config import TrainConfig
from ..data.datasets import DATA
from ..data.training_data import TrainingData
from ..entry import described
from ..model.nested_model import nest
from ..model.predicted import all_costs
from ..nestings import NESTINGS, Nesting, default_nesting
from ..schedules import SCHEDULES, Schedule
from ..stage import LossFunction
from ..tasks import TASKS, Classification, Task
from ..zoo import MODELS
from .output import OutputOptions, output_problems
from .own_function import errors_named, named_loss, named_source
from .teacher import TeacherOptions

FOLDER = Path(__file__).parent
"""Folder of the named recipes."""
TABLES = ("task", "data", "model", "nest", "schedule", "nesting", "teacher", "train", "output")
LOSSES: dict[str, LossFunction] = {"cross_entropy": Classification().loss}
DATA_FACTS = ("classes", "channels", "features")
"""Arguments of a model that the data gives where [model] does not."""
DEVICES = ("auto", "cpu", "cuda")
INSTEAD_OF = {("nest", "latency_ms"): "densities", ("nest", "densities"): "latency_ms"}
"""Keys that --set gives in place of another one of their table, which the recipe's file may have."""
MAX_SEED = 2**63 - 1
"""Largest seed that torch's generators take."""
MAX_THREADS = 4096


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Keys of [train] in addition to those of TrainConfig."""

    seed: int = 0
    """Seed of weights, batches and augmentation."""
    device: str = "auto"
    """"cpu", "cuda", or "auto": the first CUDA device if there is one, else the CPU."""
    threads: int = 0
    """Threads on the CPU; 0 leaves the number to torch. Only 1 gives the same bits on every machine."""
    loss: str = ""
    """Name of the loss; by default the task's own. Or "module:function" of (outputs, targets)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked recipe. name: name of its files. source: path of the recipe, for messages.

    tables: every table as written, with the settings of the command line. All other fields are made from them.
    """

    name: str
    source: str
    tables: Mapping[str, Mapping[str, Any]]
    task: Task
    load_data: Callable[[int], TrainingData]
    """Function from the batches' seed to the data."""
    model: Callable[..., torch.nn.Module]
    model_options: Mapping[str, Any]
    weights: Path | None
    nest_options: Mapping[str, Any]
    schedule: Schedule
    nesting: Nesting
    teacher: TeacherOptions
    config: TrainConfig
    run: RunOptions
    loss_fn: LossFunction
    output: OutputOptions


def named_recipes() -> dict[str, str]:
    """The recipes that come with the package: name to description."""
    return {path.stem: str(read_toml(path, TrainingError)["description"]) for path in sorted(FOLDER.glob("*.toml"))}


def load_recipe(path_or_name: str | Path, settings: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file or a named recipe. settings: "table.key=value", which replace the file's values.

    Raises TrainingError, one for all problems, with file, table, key, value and the allowed values of each.
    """
    path = _found(str(path_or_name))
    tables = read_toml(path, TrainingError)
    tables.pop("description", None)
    problems = Problems("--set")
    for setting in settings:
        _set(tables, setting, problems)
    checked = _checked_tables(tables, problems)
    recipe = None if problems.lines else _Maker(path.stem, str(path_or_name), checked, problems).make()
    if recipe is None:
        raise TrainingError(f"{path_or_name}:{problems.text()}")
    return recipe


def _found(path_or_name: str) -> Path:
    named = FOLDER / f"{path_or_name}.toml"
    if os.sep not in path_or_name and not path_or_name.endswith(".toml") and named.is_file():
        return named
    path = Path(path_or_name)
    if path.is_file():
        return path
    names = [each.stem for each in sorted(FOLDER.glob("*.toml"))]
    raise TrainingError(f"{path_or_name}: no such file, and as a name {unknown(path_or_name, names)}")


def _set(tables: dict[str, Any], setting: str, problems: Problems) -> None:
    """Set table.key=value in `tables`; a value that is not TOML counts as a string."""
    name, equals, text = setting.partition("=")
    table, dot, key = name.strip().partition(".")
    if not (equals and dot and table and key):
        problems.lines.append(f"--set {setting}: expected table.key=value")
        return
    try:
        value = parse_toml(f"value = {text}")["value"]
    except ValueError:
        value = text
    if not isinstance(tables.setdefault(table, {}), dict):
        return
    if key == "name" and tables[table].get("name") != value:
        tables[table].clear()  # its other keys belong to the former name
    if (table, key) in INSTEAD_OF:
        tables[table].pop(INSTEAD_OF[table, key], None)
    tables[table][key] = value


def _checked_tables(tables: Mapping[str, Any], problems: Problems) -> dict[str, dict[str, Any]]:
    for name, table in tables.items():
        if name not in TABLES:
            problems.add_unknown("tables", name, TABLES)
        elif not isinstance(table, dict):
            problems.lines.append(f"{name} = {excerpt(repr(table))}: expected a table, [{name}]")
    if tables.get("teacher") == {}:
        problems.lines.append("[teacher] is empty; give checkpoint or weights in it, or leave the table out")
    return {name: dict(tables.get(name, {})) for name in TABLES} if not problems.lines else {}


def _teacher_files(teacher: TeacherOptions | None) -> dict[str, Path | None]:
    return {f"[teacher] {key}": getattr(teacher, key, None) for key in ("checkpoint", "weights")}


class _Maker:
    """Makes the objects that the tables name; problems go to `problems`."""

    def __init__(self, name: str, source: str, tables: dict[str, dict[str, Any]], problems: Problems) -> None:
        self.name, self.source, self.tables, self.problems = name, source, tables, problems

    def make(self) -> Recipe | None:
        """The recipe, or None after adding the problems."""
        task = self._settings("task", TASKS, "classification")
        data = self._data()
        model, model_options, weights = self._model()
        without = ("model", "example_inputs")
        nest_options = checked_options("nest", self.tables["nest"], nest, self.problems, without=without)
        schedule = self._settings("schedule", SCHEDULES, "gradual")
        nesting = self._settings("nesting", NESTINGS, default_nesting(schedule))
        self._check_nest(nesting, nest_options)
        teacher = self._made("teacher", TeacherOptions, self.tables["teacher"])
        own = {field.name for field in dataclasses.fields(RunOptions)}
        train = self.tables["train"]
        run = self._made("train", RunOptions, {key: value for key, value in train.items() if key in own})
        rest = {key: value for key, value in train.items() if key not in own}
        config = self._made("train", TrainConfig, rest, also=own)
        output = self._made("output", OutputOptions, self.tables["output"])
        loss_fn = self._loss(run.loss, task) if run and task else None
        self._check_values(run, config, output, task)
        self._check_files({"[model] weights": weights, **_teacher_files(teacher)})
        if self.problems.lines or run is None or loss_fn is None:
            return None
        return Recipe(
            name=self.name,
            source=self.source,
            tables=self.tables,
            task=task,
            load_data=data,
            model=model,
            model_options=model_options,
            weights=weights,
            nest_options=nest_options,
            schedule=schedule,
            nesting=nesting,
            teacher=teacher,
            config=config,
            run=run,
            loss_fn=loss_fn,
            output=output,
        )

    def _data(self) -> Any:
        name, options = self._name_and_rest("data")
        if name is None:
            return None
        if name in DATA:
            source = self._made("data", DATA[name], options)
            return source.load if source else None
        function = self._one_of("data", "name", name, DATA)
        if function is None:
            return None
        arguments = checked_options("data", options, function, self.problems)
        return lambda seed: _own_data(f"{self.source}: [data]", name, function, arguments)

    def _model(self) -> tuple[Any, dict[str, Any], Path | None]:
        name, options = self._name_and_rest("model")
        weights = options.pop("weights", None)
        if weights is not None and not isinstance(weights, str):
            self.problems.add("model", "weights", weights, "the path of a state dict")
            weights = None
        model = None if name is None else self._one_of("model", "name", name, MODELS)
        arguments: dict[str, Any] = {}
        if model is not None:
            arguments = checked_options("model", options, model, self.problems, supplied=DATA_FACTS)
        return model, arguments, None if weights is None else Path(weights)

    def _loss(self, name: str, task: Task) -> LossFunction | None:
        if not name:
            return task.loss
        if name in LOSSES:
            return LOSSES[name]
        function = self._one_of("train", "loss", name, LOSSES)
        return None if function is None else named_loss(f"{self.source}: [train] {excerpt(name)}", function)

    def _settings(self, table: str, known: Mapping[str, type], default: str) -> Any:
        name, options = self._name_and_rest(table, default)
        if name is None:
            return None
        if name not in known:
            self.problems.add_unknown(f"[{table}] name", name, known)
            return None
        if "name" not in self.tables[table] and not options.keys() <= options_of(known[name]).keys():
            fitting = [other for other, kind in known.items() if options.keys() <= options_of(kind).keys()]
            if fitting:
                self.problems.lines.append(
                    f'[{table}] has no name, and so is {name}; for its keys give name = "{fitting[0]}"'
                )
        return self._made(table, known[name], options)

    def _name_and_rest(self, table: str, default: str = "") -> tuple[str | None, dict[str, Any]]:
        """The table's name, None after adding the problem that it is no text, and its other keys."""
        options = dict(self.tables[table])
        name = options.pop("name", default)
        if not isinstance(name, str):
            self.problems.add(table, "name", name, "a string")
            name = None
        return name, options

    def _made(self, table: str, kind: type, options: Mapping[str, Any], also: Sequence[str] | set[str] = ()) -> Any:
        """A settings object, or None after adding the problems. also: other keys of the table, for messages."""
        noted = len(self.problems.lines)
        taken = options_of(kind)
        for key in [key for key in options if key not in taken]:
            self.problems.add_unknown(f"[{table}]", key, [*taken, *sorted(also)])
        known = {key: value for key, value in options.items() if key in taken}
        arguments = checked_options(table, known, kind, self.problems)
        if len(self.problems.lines) > noted:
            return None
        try:
            return kind(**arguments)
        except NestedSparseError as error:
            self._add_refused(table, kind, error)
            return None

    def _check_nest(self, nesting: Any, options: Mapping[str, Any]) -> None:
        """Check that [nest] says its levels and names costs that can be read, and that [nesting] has as many levels."""
        by_latency = options.get("budget_by") == "latency"
        levels = "latency_ms" if by_latency else "densities"
        if levels not in self.tables["nest"]:
            self.problems.add_missing("nest", levels, Sequence[float])
        rule = options.get("dense_where")
        if by_latency or rule is not None:
            try:
                all_costs(options.get("costs"), 'budget_by="latency"' if by_latency else f"dense_where={rule!r}")
            except NestedSparseError as error:
                self.problems.lines.append(f"[nest] {error}")
        if nesting is None or levels not in options:
            return
        try:
            nesting.check_levels(len(options[levels]))
        except NestedSparseError as error:
            self._add_refused("nesting", type(nesting), error)

    def _add_refused(self, table: str, kind: type, error: NestedSparseError) -> None:
        """Add the problem that the settings class `kind` refuses a value of `table`."""
        self.problems.lines.append(f"[{table}] {str(error).removeprefix(f'{kind.__name__}.')}")

    def _one_of(self, table: str, key: str, name: str, known: Mapping[str, Any]) -> Any:
        """The object called `name`: a known one or module:function; None after adding the problem."""
        if name in known:
            return known[name]
        if ":" not in name:
            allowed = [*known, "module:function of your own"]
            self.problems.add_unknown(f"[{table}] {key}", name, allowed)
            return None
        try:
            return _imported(name)
        except Exception as error:  # the module may raise anything
            self.problems.lines.append(f"[{table}] {key} = '{excerpt(name)}': cannot be imported ({described(error)})")
            return None

    def _check_files(self, files: Mapping[str, Path | None]) -> None:
        """Check that the given files, by key, are there, so that no data is loaded in vain."""
        for key, path in files.items():
            if path is not None and not path.is_file():
                said = "is not a file" if path.exists() else "no such file"
                self.problems.lines.append(f"{key} = '{excerpt(path)}': {said}; give the path of one")

    def _check_values(
        self, run: RunOptions | None, config: TrainConfig | None, output: OutputOptions | None, task: Task | None
    ) -> None:
        if run and run.device.partition(":")[0] not in DEVICES:
            self.problems.add("train", "device", run.device, f"one of: {', '.join(DEVICES)}, cuda:1")
        for key, most in {"seed": MAX_SEED, "threads": MAX_THREADS}.items():
            if run and not 0 <= getattr(run, key) <= most:
                self.problems.add("train", key, getattr(run, key), f"a whole number from 0 to {most}")
        if output and output.values not in VALUE_TYPES:
            self.problems.add("output", "values", output.values, f"one of: {', '.join(VALUE_TYPES)}")
        for problem in () if output is None or output.values not in VALUE_TYPES else output_problems(output):
            self.problems.add("output", *problem)
        if config and output and config.int8_epochs and output.values != INT8.name:
            self.problems.add("train", "int8_epochs", config.int8_epochs, f'0, or [output] values = "{INT8.name}"')
        if output and task:
            for metric in sorted(set(output.metrics or ()) - set(task.metrics)):
                self.problems.add_unknown("[output] metrics", metric, task.metrics)
        if output and task and output.route_samples and (not isinstance(task, Classification) or task.classes_last):
            own = " with classes_last" if isinstance(task, Classification) else ""
            why = f"0 with the task {self.tables['task'].get('name', 'classification')}{own}"
            only = "lowered inferences are scored by one class of each sample"
            self.problems.add("output", "route_samples", output.route_samples, f"{why}: {only}")
        if output and Path(output.file).name != output.file:
            self.problems.add("output", "file", output.file, "the name of a file; its folder is --out's")


def _imported(name: str) -> Callable[..., Any]:
    """The function "module:function"; the module may be in the current directory, as with `python -m`."""
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found = getattr(importlib.import_module(module), attribute)
    if not callable(found):
        raise ValueError(f"it is {type(found).__name__}, not a function or class")
    options_of(found)  # raises ValueError for some builtins
    return found  # type: ignore[no-any-return]


def _own_data(table: str, name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> TrainingData:
    """The function's result, checked. Later errors of its batches name it. table: name of the table, for messages."""
    with errors_named(name):
        data = function(**arguments)
    if not isinstance(data, TrainingData):
        raise TrainingError(f"{name} returned {type(data).__name__}: expected a nested_sparse.trainer.TrainingData")
    tensors = isinstance(data.example, tuple) and data.example
    for field, holds, expected in (
        ("batches", callable(data.batches), "a function of the epoch's number"),
        ("scored", callable(data.scored), "a function without arguments"),
        ("example", tensors and all(isinstance(each, Tensor) for each in data.example), "a tuple of tensors"),
        ("facts", _is_json(data.facts), "a dict that can be written as JSON"),
    ):
        if not holds:
            got = shown(getattr(data, field))
            raise TrainingError(f"{name} returned a TrainingData whose {field} is {got}: expected {expected}")
    return dataclasses.replace(
        data,
        batches=named_source(f"{table} {name}: its batches", data.batches),
        scored=named_source(f"{table} {name}: its scored", data.scored),
    )


def _is_json(facts: object) -> bool:
    try:
        json.dumps(facts, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(facts, dict)
