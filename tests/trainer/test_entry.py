"""Entries: public functions raise no foreign exception, for any model and any state of torch."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nested_sparse.errors import BudgetError, ExportError, InputError, NestedSparseError, TrainingError
from nested_sparse.runtime import Session
from nested_sparse.trainer import (
    FreezeThenGrow,
    NestedModel,
    OneShot,
    TrainConfig,
    accuracy_per_level,
    export,
    measure_reroutes,
    nest,
    nest_pretrained,
    recalibrate,
    train,
)

SAMPLES = torch.linspace(-1, 1, 30).reshape(5, 6).sin(), torch.tensor([0, 1, 2, 3, 0])
MODEL = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def model() -> nn.Module:
    """A model made before the test, because in some states torch cannot make one."""
    return MODEL


def batches(epoch: int = 0) -> list[tuple[Tensor, Tensor]]:
    return [SAMPLES]


@contextmanager
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def anomaly() -> Iterator[None]:
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        yield


STATES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "inference mode": lambda: torch.inference_mode(),
    "no gradients": lambda: torch.no_grad(),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default device meta": lambda: torch.device("meta"),
    "default dtype float64": default_dtype,
    "deterministic algorithms": deterministic,
    "anomaly detection": anomaly,
}


@pytest.mark.parametrize("name", STATES)
def test_state_of_torch_changes_nothing(name: str, tmp_path: Path) -> None:
    """Nested, exported and run in any state of torch, a model answers as usual; the state stays."""
    original, x = copy.deepcopy(model()).eval(), batches()[0][0]
    with torch.no_grad():
        expected = nest(original, densities=(0.5, 1.0)).eval()(x).numpy()
    with STATES[name]():
        modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        net = nest(original, densities=(0.5, 1.0))
        path = export(net, (x,), tmp_path / "net.safetensors")
        assert modes == (torch.is_inference_mode_enabled(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"))
    with Session(path, threads=1) as session:
        np.testing.assert_allclose(session.run({"input": x.numpy()})["output"], expected, atol=1e-5)
    assert all(parameter.device.type == "cpu" for parameter in net.parameters())
    assert not any(parameter.is_inference() for parameter in net.parameters())


@pytest.mark.parametrize("name", [name for name in STATES if name not in ("default device meta", "autocast")])
def test_training_works_in_any_state(name: str) -> None:
    """Training works with gradients off, and in inference mode."""
    net = nest(model(), densities=(0.5, 1.0))
    config = TrainConfig(dense_epochs=1, search_epochs=1)
    with STATES[name]():
        reports = train(
            net, batches, nn.functional.cross_entropy, config, schedule=OneShot(), nesting=FreezeThenGrow(1)
        )
    assert reports


CALLS: dict[str, Callable[[NestedModel, Path], object]] = {
    "nest": lambda net, _: nest(model(), densities=(0.5, 1.0), budget_by="flops", example_inputs=(batches()[0][0],)),
    "nest_pretrained": lambda net, _: nest_pretrained(model(), batches(), densities=(0.5, 1.0)),
    "train": lambda net, _: train(net, batches, nn.functional.cross_entropy, TrainConfig(dense_epochs=1)),
    "recalibrate": lambda net, _: recalibrate(net, batches()),
    "accuracy_per_level": lambda net, _: accuracy_per_level(net, batches()),
    "measure_reroutes": lambda net, _: measure_reroutes(net, batches()),
    "export": lambda net, path: export(net, (batches()[0][0],), path),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("inside", ["fake tensors", "vmap", "meta"])
def test_states_without_values_end_in_our_errors(call: str, inside: str, tmp_path: Path) -> None:
    """Where tensors have no values, the error is one of this package."""
    net, path = nest(model(), densities=(0.5, 1.0)), tmp_path / "net.safetensors"

    def attempt() -> None:
        with contextlib.suppress(NestedSparseError):
            CALLS[call](net, path)

    if inside == "fake tensors":
        with FakeTensorMode(allow_non_fake_inputs=True):
            attempt()
    elif inside == "meta":
        net.to("meta")
        attempt()
    else:
        torch.func.vmap(lambda x: (attempt(), x)[1])(torch.zeros(2))


class Odd(nn.Module):
    """A layer, and a forward with unusual behaviour."""

    def __init__(self, act: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(6, 4), act

    def forward(self, x: Tensor) -> object:
        return self.act(self.fc(x))


def raising(error: BaseException) -> Callable[[Tensor], object]:
    def act(x: Tensor) -> object:
        raise error

    return act


ODD: dict[str, Callable[[Tensor], object]] = {
    "raises KeyError": raising(KeyError("state")),
    "raises with an escape": raising(RuntimeError("\x1b[31mred\nsecond line")),
    "raises StopIteration": raising(StopIteration()),
    "asserts": raising(AssertionError()),
    "runs out of memory": raising(MemoryError()),
    "recurses": raising(RecursionError("maximum recursion depth exceeded")),
    "answers a number": lambda x: 3,
    "answers nothing": lambda x: None,
    "answers complex": lambda x: torch.fft.fft(x),
    "answers sparse": lambda x: x.to_sparse(),
    "answers bfloat16": lambda x: x.bfloat16(),
    "answers an empty tensor": lambda x: x[:, :0],
    "answers a generator": lambda x: (part for part in x),
    "depends on data": lambda x: x[x > 0],
    "calls item": lambda x: x * x.sum().item(),
    "calls numpy": lambda x: torch.from_numpy(np.sin(x.detach().numpy())),
    "has no translation": lambda x: torch.linalg.eigvals(x.T @ x).real,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_models_end_in_our_errors(name: str, tmp_path: Path) -> None:
    """A model is exported, or refused with one readable line that keeps the cause."""
    net = nest(Odd(ODD[name]), densities=(0.5, 1.0)).eval()
    for verify in (True, False):
        said = ""
        try:
            export(net, (torch.randn(3, 6),), tmp_path / f"{verify}.safetensors", verify=verify)
        except NestedSparseError as error:
            said = str(error)
        assert "\n" not in said
        assert "\x1b" not in said


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_program_passes(error: type[BaseException], tmp_path: Path) -> None:
    """KeyboardInterrupt and the like stay the same."""
    net = nest(Odd(raising(error())), densities=(0.5, 1.0)).eval()
    with pytest.raises(error):
        export(net, (torch.randn(3, 6),), tmp_path / "net.safetensors")


@pytest.mark.parametrize("call", ["train", "recalibrate", "accuracy_per_level", "measure_reroutes"])
def test_the_module_at_fault_is_named(call: str) -> None:
    """A forward's error becomes one of this package, with the module's dotted path and the cause."""
    inner = Odd(raising(KeyError("state")))
    net = nest(nn.Sequential(nn.Linear(6, 6), inner), densities=(0.5, 1.0))
    with pytest.raises(
        TrainingError, match=rf"{call} failed, in module '(model\.)?1' \(Odd\): KeyError: 'state'"
    ) as caught:
        CALLS[call](net, Path())
    assert isinstance(caught.value.__cause__, KeyError)


def test_wrong_calls_stay_type_errors() -> None:
    """A call that Python itself refuses stays a TypeError."""
    with pytest.raises(TypeError, match="model"):
        nest(densities=(0.5, 1.0))  # type: ignore[call-arg]
    with pytest.raises(BudgetError, match=r"^densities: expected a list of numbers"):
        nest(model())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_refused_by_name(dtype: torch.dtype, tmp_path: Path) -> None:
    """Models and inputs that are not float32 are refused, with the next step."""
    net = nest(copy.deepcopy(model()).to(dtype), densities=(0.5, 1.0)).eval()
    with pytest.raises(ExportError, match=rf"layer '0' has {dtype} weights.*\.float\(\)"):
        export(net, (torch.randn(3, 6),), tmp_path / "net.safetensors")
    if dtype == torch.bfloat16:
        with pytest.raises(ExportError, match=r"example_inputs\[0\] is torch\.bfloat16.*\.float\(\)"):
            export(net.float(), (torch.randn(3, 6).bfloat16(),), tmp_path / "net.safetensors")


def test_nest_names_what_a_copy_cannot_be_made_of() -> None:
    """deepcopy's own errors become InputError."""

    class Locked(nn.Linear):
        def __deepcopy__(self, memo: object) -> object:
            raise OSError("no")

    with pytest.raises(InputError, match=r"nest failed.*OSError: no"):
        nest(nn.Sequential(nn.Linear(4, 4), Locked(4, 4)), densities=(0.5,))


class StoppedError(Exception):
    """The caller's own exception, to end a run."""


@pytest.mark.parametrize(("raised", "passes"), [(StoppedError(), True), (ValueError("no"), False)])
def test_the_callers_own_exceptions_end_a_training_run(raised: Exception, passes: bool) -> None:
    """The caller's own class passes; builtin exceptions of a data source become TrainingError."""

    def source(epoch: int) -> list[tuple[Tensor, Tensor]]:
        raise raised

    net = nest(model(), densities=(0.5, 1.0))
    with pytest.raises(StoppedError if passes else TrainingError):
        train(net, source, nn.functional.cross_entropy, TrainConfig(dense_epochs=1))


@pytest.mark.parametrize("raised", [StoppedError(), InterruptedError("enough"), StopIteration()])
def test_whatever_on_progress_raises_ends_the_run(raised: Exception) -> None:
    """All its exceptions pass, also builtin ones: on_progress may end the run."""

    def stop(report: object) -> None:
        raise raised

    net = nest(model(), densities=(0.5, 1.0))
    with pytest.raises(type(raised)):
        train(net, batches, nn.functional.cross_entropy, TrainConfig(dense_epochs=1), on_progress=stop)


def nested() -> NestedModel:
    return nest(model(), densities=(0.5, 1.0))


def trained(**options: object) -> object:
    given = {
        "batches": batches,
        "loss_fn": nn.functional.cross_entropy,
        "config": TrainConfig(dense_epochs=1),
        **options,
    }
    return train(nested(), **given)  # type: ignore[arg-type]


NOT_NESTED = r"net: expected a NestedModel, as nest returns it, got a Sequential; call nest first"
THREE_ITEMS = r"expected each batch to be \(inputs, targets\), got a tuple of 3 items; several inputs"
TRIPLES = [(*SAMPLES, SAMPLES[1])]
WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "nest None": (lambda: nest(None, densities=(0.5,)), "model: expected a torch module, got a NoneType"),
    "one density": (lambda: nest(model(), densities=0.5), "densities: expected a list of numbers, .*, got 0.5"),
    "no density": (lambda: nest(model(), densities=None), "densities: expected .* got None"),
    "a text as densities": (lambda: nest(model(), densities="abc"), "densities: expected .* got 'abc'"),
    "a text as a density": (lambda: nest(model(), densities=["a"]), "densities: .* got 'a' among"),
    "no pattern": (lambda: nest(model(), densities=(0.5,), pattern=None), "pattern: .* got None; choose"),
    "a number as pattern": (lambda: nest(model(), densities=(0.5,), pattern=3), "pattern: .* got 3; choose"),
    "keep_dense None": (lambda: nest(model(), densities=(0.5,), keep_dense=None), "keep_dense: expected a list of"),
    "least density": (lambda: nest(model(), densities=(0.5,), min_layer_density="a"), "min_layer_density .*'a'"),
    "a tensor as examples": (
        lambda: nest(model(), densities=(0.5,), example_inputs=SAMPLES[0]),
        "example_inputs, .* got Tensor",
    ),
    "export": (lambda: export(model(), (SAMPLES[0],), "never"), NOT_NESTED),
    "train": (lambda: train(model(), batches, nn.functional.cross_entropy), NOT_NESTED),
    "recalibrate": (lambda: recalibrate(model(), batches()), NOT_NESTED),
    "accuracy": (lambda: accuracy_per_level(model(), batches()), NOT_NESTED),
    "reroutes": (lambda: measure_reroutes(model(), batches()), NOT_NESTED),
    "its model": (lambda: export(nested().model, (SAMPLES[0],), "never"), "give the NestedModel that holds it"),
    "metrics": (
        lambda: export(nested(), (SAMPLES[0],), "never", metrics=[1]),
        r"metrics: expected .* got \[1\]",
    ),
    "values": (lambda: export(nested(), (SAMPLES[0],), "never", values=[]), r"values: expected one of .*, got \[\]"),
    "names": (lambda: export(nested(), (SAMPLES[0],), "never", input_names=3), "input_names: expected 1 names, got 3"),
    "foreign reroutes": (lambda: export(nested(), (SAMPLES[0],), "never", reroutes=3), "reroutes: expected"),
    "tolerance": (lambda: export(nested(), (SAMPLES[0],), "never", tolerance="a"), "tolerance: expected a number"),
    "export path": (lambda: export(nested(), (SAMPLES[0],), None), "path: expected the path of a file, got None"),
    "schedule's name": (lambda: trained(schedule="gradual"), r"schedule: expected .* Gradual\(\), got 'gradual'"),
    "schedule's class": (
        lambda: trained(schedule=OneShot),
        "schedule: expected an instance .*OneShot'>",
    ),
    "nesting's class": (lambda: trained(nesting=FreezeThenGrow), "nesting: expected an instance .*, got <class"),
    "config": (lambda: trained(config={}), r"config: expected a TrainConfig, got \{\}"),
    "loss": (lambda: trained(loss_fn=None), r"loss_fn: expected a function of \(outputs, targets\), got None"),
    "loss of a number": (lambda: trained(loss_fn=lambda y, t: 3), "loss_fn returned int: expected"),
    "loss per sample": (lambda: trained(loss_fn=lambda y, t: y), r"loss_fn returned a tensor \(5, 4\): expected"),
    "on_progress": (lambda: trained(on_progress=None), "on_progress: expected a function"),
    "a list as batches": (
        lambda: trained(batches=batches()),
        "batches: expected a function .* a list",
    ),
    "no batches": (lambda: trained(batches=lambda epoch: None), r"batches\(0\): expected batches, .*, got None"),
    "three items": (lambda: trained(batches=lambda epoch: TRIPLES), THREE_ITEMS),
    "three items to score": (lambda: accuracy_per_level(nested(), TRIPLES), THREE_ITEMS),
    "three items to recalibrate": (lambda: recalibrate(nested(), TRIPLES), THREE_ITEMS),
    "three items to reroute": (lambda: measure_reroutes(nested(), TRIPLES), THREE_ITEMS),
    "samples": (lambda: recalibrate(nested(), batches(), samples="a"), "samples: expected a whole number"),
    "damping": (lambda: nest_pretrained(model(), batches(), densities=(0.5,), damping="a"), "damping: expected a num"),
}


@pytest.mark.parametrize("name", WRONG)
def test_arguments_of_another_kind_are_named(name: str) -> None:
    """The error has the argument, the expected and the given kind, not the inner failure."""
    call, said = WRONG[name]
    with pytest.raises(NestedSparseError, match=said) as caught:
        call()
    assert " failed" not in str(caught.value)
