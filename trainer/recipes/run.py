"""Run of a recipe: data, net, training, metrics of each level, checkpoint, picture. A run can be resumed."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nested_sparse.amend import store_reroutes
from nested_sparse.errors import NestedSparseError, TrainingError
from nested_sparse.excerpt import excerpt
from nested_sparse.options import options_of

from ..data.training_data import TrainingData
from ..distributed import from_first, rank
from ..entry import described, foreign_errors
from ..evaluate import check_scored, metrics_per_level
from ..file_model import FileModel
from ..layer_names import chosen_layers
from ..model.costs import counted_costs
from ..model.modes import evaluating
from ..model.nested_model import NestedModel, nest
from ..model.preserved import preserved_generators
from ..picture import draw
from ..progress import EpochReport
from ..reroute import file_reroutes
from ..state import StateError
from ..train import train
from .own_function import errors_named
from .recipe import DATA_FACTS, Recipe
from .run_record import RunRecord
from .written import chosen_metrics, level_figures, write_float_or_int8, write_int8

OnProgress = Callable[[EpochReport], None]
LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The paths of a run's files, all in the folder of its checkpoint."""

    checkpoint: Path

    @property
    def int8(self) -> Path:
        """File of the same levels in int8, where [output] int8_beside asks for it."""
        return self.checkpoint.with_stem(f"{self.checkpoint.stem}-int8")

    @property
    def state(self) -> Path:
        """File from which a stopped run continues; it is deleted when the run is done."""
        return self.checkpoint.with_suffix(".state")

    @property
    def record(self) -> Path:
        """File of the RunRecord."""
        return self.checkpoint.with_suffix(".json")

    @property
    def picture(self) -> Path:
        """Plot of the levels' quality over FLOPs."""
        return self.checkpoint.with_suffix(".png")


def run_files(recipe: Recipe, out: Path) -> RunFiles:
    """The files of `recipe` in the folder `out`."""
    return RunFiles(out / (recipe.output.file or f"{recipe.name}.safetensors"))


def run_recipe(
    recipe: Recipe, out: Path, *, fresh: bool = False, on_progress: Sequence[OnProgress] = ()
) -> dict[str, Any]:
    """Train by `recipe` in the folder `out`, and return the figures.

    A stopped run in the folder is continued; a finished one only returns its figures. fresh: start anew and replace the
    files of an earlier run. With several processes, the first one writes, and the others return no figures.
    Raises NestedSparseError: files of another run exist, or data, model and settings do not fit together.
    """
    files = run_files(recipe, out)
    record = RunRecord(files.record, recipe.tables)
    if not rank():
        _prepare(recipe, files, record, fresh)
    done = torch.tensor("figures" in record.facts and files.checkpoint.exists())
    if from_first(done):  # the others also wait here until the first process has removed old files
        return dict(record.facts.get("figures", {}))
    data, net = start(recipe)
    if chosen_metrics(recipe):  # they are measured after hours of training
        name = excerpt(recipe.tables["data"]["name"])
        with foreign_errors(f"{recipe.source}: [data] {name}: scoring", TrainingError, net):
            check_scored(
                net, data.scored(), recipe.task, f"{recipe.source}: [data] {name}: the metric {recipe.task.quality}"
            )
    with _state_advice(files):
        reports = train_by(recipe, data, net, files.state, _progress(recipe, data, net, record, on_progress))
    if rank():
        return {}
    figures = _finish(recipe, data, net.cpu(), files=files, record=record, reports=reports)
    record.note(figures=figures)
    files.state.unlink(missing_ok=True)
    return figures


def _prepare(recipe: Recipe, files: RunFiles, record: RunRecord, fresh: bool) -> None:
    """Make the folder and load the record. Raises TrainingError for files that are not of a run of this recipe."""
    try:
        files.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        folder = files.checkpoint.parent
        raise TrainingError(f"{folder}: cannot be made ({error.strerror or error}); name another with --out") from None
    if fresh:
        for path in (files.state, files.record):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # a folder, or no permission
                raise TrainingError(
                    f"{path}: cannot be removed ({error.strerror or error}); name another folder with --out"
                ) from None
        return
    record.load()
    for path in (files.checkpoint, *([files.int8] if recipe.output.int8_beside else ())):
        if path.exists() and not files.record.exists():
            raise TrainingError(f"{path}: exists, but not from a run of this recipe; --fresh replaces it")


def start(recipe: Recipe) -> tuple[TrainingData, NestedModel]:
    """The data, and the untrained net on its device. Raises TrainingError with the name of the faulty table."""
    if recipe.run.threads:
        torch.set_num_threads(recipe.run.threads)
    data = _in_table(recipe, "data", lambda: recipe.load_data(recipe.run.seed))
    torch.manual_seed(recipe.run.seed)
    model = _in_table(recipe, "model", lambda: made_model(recipe, data, recipe.weights))
    if recipe.output.stepwise and not hasattr(model, "stepwise"):
        name = excerpt(recipe.tables["model"]["name"])
        raise TrainingError(
            f"{recipe.source}: [output] stepwise: {name} takes no text piece by piece; expected a model with a method "
            "stepwise(), such as gpt, or false"
        )
    net = _in_table(recipe, "nest", lambda: nest(model, **_nest_options(recipe, data)))
    # needed at the end of training only: a wrong name would cost all of it
    for table, option, patterns in (
        ("output", "keep_float", recipe.output.keep_float),
        ("train", "int8_keep_float", recipe.config.int8_keep_float),
    ):
        chosen_layers(f"{recipe.source}: [{table}] {option}", patterns, net.nested_layers(), TrainingError)
    return data, net.to(_device(recipe))


def _nest_options(recipe: Recipe, data: TrainingData) -> dict[str, Any]:
    """The recipe's options of `nest`; a budget by FLOPs gets the data's example as its inputs."""
    by_flops = recipe.nest_options.get("budget_by") == "flops"
    return {**recipe.nest_options, **({"example_inputs": data.example} if by_flops else {})}


def _in_table(recipe: Recipe, table: str, make: Callable[[], Any]) -> Any:
    """The result of `make`; its errors become a TrainingError with the names of the table and its function."""
    try:
        with errors_named(excerpt(recipe.tables[table].get("name", table))):
            return make()
    except NestedSparseError as error:
        raise TrainingError(f"{recipe.source}: [{table}] {error}") from error


def made_model(recipe: Recipe, data: TrainingData, weights: Path | None) -> nn.Module:
    """The model, made for the data's numbers of classes and channels unless the recipe sets them.

    weights: the file of its state dict; None leaves it untrained.
    """
    taken = options_of(recipe.model)
    options = dict(recipe.model_options)
    for key in DATA_FACTS:
        if key in taken and key in data.facts:
            options.setdefault(key, data.facts[key])
        elif key in taken and key not in options and taken[key].default is inspect.Parameter.empty:
            raise TrainingError(f"{key} is missing, and the data does not tell it; add it to [model]")
    model = recipe.model(**options)
    if not isinstance(model, nn.Module):
        name = excerpt(recipe.tables["model"]["name"])
        raise TrainingError(f"{name} returned {type(model).__name__}: expected a torch.nn.Module")
    if weights is not None:
        load_weights(model, weights)
    with torch.no_grad():
        training = model.training
        try:
            model.eval()(*data.example)
        except Exception as error:  # a model may raise anything
            shapes = [list(example.shape) for example in data.example]
            said = f"the model does not take the data's inputs {shapes}: {described(error)}"
            raise TrainingError(said + _of_length(data.example[0], taken, options)) from error
        model.train(training)
    return model


def _of_length(example: Tensor, taken: Mapping[str, inspect.Parameter], options: Mapping[str, Any]) -> str:
    """The next step where texts are longer than the model's option `longest`; "" elsewhere."""
    longest = options.get("longest", taken["longest"].default if "longest" in taken else None)
    if not isinstance(longest, int) or example.ndim < 2 or example.shape[1] <= longest:
        return ""
    length = example.shape[1]
    return f"; its longest is {longest}: set [model] longest to {length} or more, or a shorter [data] length"


def _teacher(recipe: Recipe, data: TrainingData) -> nn.Module | None:
    """The model of [teacher], which answers to the data's inputs; None without one. Random generators stay."""
    if recipe.teacher.weights is not None:
        with preserved_generators():
            return made_model(recipe, data, recipe.teacher.weights)
    if recipe.teacher.checkpoint is None:
        return None
    return FileModel(recipe.teacher.checkpoint, threads=recipe.run.threads or None)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state dict of torch.save into `model`. Raises TrainingError if it is damaged or does not fit."""
    advice = f"expected a state dict that torch.save wrote of a {type(model).__name__}"
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TrainingError(f"weights {path}: cannot be read ({error.strerror or error}); {advice}") from error
    except Exception as error:  # torch's unpickler may raise anything, with pages of advice
        raise TrainingError(f"weights {path}: is not a file of weights ({type(error).__name__}); {advice}") from error
    try:
        model.load_state_dict(weights)
    except Exception as error:  # another kind of object, or other names and shapes
        reason = excerpt(" ".join(str(error).split()), 500)
        raise TrainingError(f"weights {path}: do not fit the model ({reason}); {advice}") from error


def _device(recipe: Recipe) -> torch.device:
    wanted, there = recipe.run.device, torch.cuda.is_available()
    if wanted == "auto":
        return torch.device("cuda" if there else "cpu")
    if wanted.startswith("cuda") and not there:
        raise TrainingError(
            f"{recipe.source}: [train] device = {wanted!r}: torch finds no CUDA device here; use 'auto'"
        )
    return torch.device(wanted)


def train_by(
    recipe: Recipe, data: TrainingData, net: NestedModel, state_path: Path, on_progress: OnProgress
) -> tuple[EpochReport, ...]:
    """Train `net` by the recipe's loss, settings, schedule and nesting; returns the report of each epoch.

    data, net: the pair that `start` returned. state_path: file from which a stopped training goes on.
    Raises TrainingError: the recipe's model or functions fail; StateError: the state file is of another training.
    """
    name = excerpt(recipe.tables["model"]["name"])
    teacher = _in_table(recipe, "teacher", lambda: _teacher(recipe, data))
    with foreign_errors(f"{recipe.source}: [model] {name}: training", TrainingError, net):  # exceptions of the model
        return train(
            net,
            data.batches,
            recipe.loss_fn,
            recipe.config,
            schedule=recipe.schedule,
            nesting=recipe.nesting,
            state_path=state_path,
            on_progress=on_progress,
            teacher=teacher,
            task=recipe.task,
        )


def _progress(
    recipe: Recipe, data: TrainingData, net: NestedModel, record: RunRecord, on_progress: Sequence[OnProgress]
) -> OnProgress:
    """A listener of the first process that writes `record` and passes each report on.

    The record is written after the first epoch, when there is a state to continue from, and gets the quality of the
    dense model. A run that fails earlier leaves no record, so the corrected recipe may use the folder.
    """

    quality = recipe.task.quality

    def progress(report: EpochReport) -> None:
        if rank():
            return
        if not record.path.exists():
            record.note()
        if report.stage == "dense" and report.epoch == report.epochs and quality in chosen_metrics(recipe):
            record.note(**{f"dense_{quality}": metrics_per_level(net, data.scored(), task=recipe.task)[quality][0]})
        for each in on_progress:
            each(report)

    return progress


@contextmanager
def _state_advice(files: RunFiles) -> Iterator[None]:
    """A context in which errors of a state file name the options of the command line that help."""
    try:
        yield
    except StateError as error:
        fresh = "" if files.state.is_dir() else "--fresh replaces it, "
        raise TrainingError(f"{error.trouble}; {fresh}--out names another folder") from error


def _finish(
    recipe: Recipe,
    data: TrainingData,
    net: NestedModel,
    *,
    files: RunFiles,
    record: RunRecord,
    reports: Sequence[EpochReport],
) -> dict[str, Any]:
    """Measure the levels, export the checkpoint and draw the picture; returns the figures."""
    metrics = write_float_or_int8(recipe, data, net, files.checkpoint)
    if samples := recipe.output.route_samples:
        reroutes = file_reroutes(files.checkpoint, data.batches(0), samples, recipe.output.max_drop)
        store_reroutes(files.checkpoint, reroutes)
    beside = {"int8": _int8_figures(recipe, data, net, files.int8)} if recipe.output.int8_beside else {}
    levels = level_figures(files.checkpoint)
    quality = recipe.task.quality
    dense = {"flops": dense_flops(net, data.example), quality: record.facts.get(f"dense_{quality}")}
    if quality in metrics:
        draw(files.picture, recipe.name, levels, dense, data.facts.get("evaluated_on", ""), quality)
    return {
        "recipe": recipe.name,
        "seed": recipe.run.seed,
        "levels": levels,
        "dense": dense,
        "data": data.facts,
        "epochs": len(reports),
        "passes": sum(report.passes for report in reports),
        "seconds": sum(report.duration_s for report in reports),
        "losses": reports[-1].losses if reports else {},
        "checkpoint": str(files.checkpoint),
        "picture": str(files.picture) if quality in metrics else None,
        **beside,
        "settings": recipe.tables,
    }


def _int8_figures(recipe: Recipe, data: TrainingData, net: NestedModel, path: Path) -> dict[str, Any]:
    """The figures of the int8 file; the reason alone where it cannot be made, as what was trained is there already."""
    try:
        write_int8(recipe, data, net, path)
    except NestedSparseError as error:
        LOGGER.warning("no int8 file was written: %s", error)
        path.unlink(missing_ok=True)  # one of an earlier run has other weights
        return {"refused": str(error)}
    return {"levels": level_figures(path), "checkpoint": str(path)}


def dense_flops(net: NestedModel, example: tuple[Tensor, ...]) -> int:
    """Floating point operations of the whole network with all weights kept, as Level.flops counts them."""
    with evaluating(net), torch.no_grad(), counted_costs(net) as costs:
        net(*example)
    return costs.total // len(example[0])
