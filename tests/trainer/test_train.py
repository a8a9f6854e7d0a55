"""train: levels, rings, masks, resumed runs and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import nested_small_net, small_batches, small_net, snapshot
from small_runs import GROW, QUICK, run
from torch import Tensor, nn

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import Gradual, Interleaved, Joint, NestedModel, OneShot, nest, train
from nested_sparse.trainer.config import TrainConfig
from nested_sparse.trainer.evaluate import accuracy_per_level
from nested_sparse.trainer.nestings import FreezeThenGrow, Nesting
from nested_sparse.trainer.progress import EpochReport, ProgressBar
from nested_sparse.trainer.schedules import Schedule


def at_phase_ends(
    net: NestedModel, watched: Callable[[NestedModel], dict[str, Tensor]]
) -> Callable[[EpochReport], None]:
    """An on_progress that keeps what `watched` returns at the end of each phase, in the attribute `seen`."""

    def on_progress(report: EpochReport) -> None:
        if report.epoch == report.epochs:
            on_progress.seen[report.stage] = watched(net)  # type: ignore[attr-defined]

    on_progress.seen = {}  # type: ignore[attr-defined]
    return on_progress


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_lower_levels_stay_bit_equal(optimizer: str) -> None:
    """After a level's stage nothing of the level changes, under momentum and strong weight decay."""
    config = TrainConfig(
        dense_epochs=1, search_epochs=1, optimizer=optimizer, lr=0.02, weight_decay=0.3, recalibration_samples=0
    )
    net = nested_small_net(keep_dense=("9",))
    watch = at_phase_ends(net, snapshot)
    run(net, config, on_progress=watch)
    final, seen = snapshot(net), watch.seen  # type: ignore[attr-defined]
    for level in range(3):
        after = seen[f"level {level}"]
        for name, layer in net.nested_layers().items():
            mask, key = layer.mask(level), f"model.{name}.weight"
            assert torch.equal(final[key][mask], after[key][mask])
            if layer.bias is not None:
                assert torch.equal(final[f"model.{name}.bias"][: level + 1], after[f"model.{name}.bias"][: level + 1])
        own = [key for key in final if f".norms.{level}." in key]
        shared = [key for key in final if key.startswith("model.7.") or key == "model.9.weight"]
        assert own
        assert shared
        assert all(torch.equal(final[key], after[key]) for key in own + shared)


def test_only_the_ring_moves() -> None:
    """A level's stage changes the weights that it adds, and none that neither it nor a lower level keeps."""
    net = nested_small_net()
    watch = at_phase_ends(net, snapshot)
    run(net, on_progress=watch)
    seen = watch.seen  # type: ignore[attr-defined]
    for level in (1, 2):
        for name, layer in net.nested_layers().items():
            key = f"model.{name}.weight"
            moved = seen[f"level {level}"][key] != seen[f"level {level - 1}"][key]
            assert moved.any()
            assert not (moved & ~layer.ring(level)).any()


def test_every_level_has_a_norm_and_bias_of_its_own() -> None:
    """After training, norms (affine and statistics) and biases differ between the levels."""
    net = nested_small_net()
    run(net)
    for norm in net.level_norms().values():
        for one, other in ((0, 1), (1, 2)):
            for key, value in norm.norms[one].state_dict().items():
                if key != "num_batches_tracked":
                    assert not torch.equal(value, norm.norms[other].state_dict()[key])
    bias = net.nested_layers()["9"].bias
    assert bias is not None
    assert len({tuple(row.tolist()) for row in bias}) == 3


@pytest.mark.parametrize(
    "nesting",
    [GROW, FreezeThenGrow(1, search_each=True), Interleaved(epochs=1), Joint(epochs=1), Joint(1, search_level=1)],
)
@pytest.mark.parametrize("schedule", [OneShot(), Gradual(), Gradual(end=0.5)])
def test_masks_nest_at_their_densities(schedule: Schedule, nesting: Nesting) -> None:
    """With every schedule and nesting, each level keeps the number of blocks of the rounding rule."""
    net = nested_small_net()
    expected = [
        [int((layer.first_level <= level).sum()) for level in range(3)] for layer in net.nested_layers().values()
    ]
    reports = run(net, TrainConfig(dense_epochs=1, search_epochs=1), schedule=schedule, nesting=nesting)
    got = [[int((layer.first_level <= level).sum()) for level in range(3)] for layer in net.nested_layers().values()]
    assert got == expected
    assert reports[0].density == 1
    assert reports[-1].density == net.density(-1)


def test_training_learns() -> None:
    """On a task that a sparse net can do, every level is mostly right, and the model is at its densest level."""
    net = nested_small_net()
    config = TrainConfig(dense_epochs=6, search_epochs=3)
    reports = run(net, config, nesting=FreezeThenGrow(epochs_per_level=(3, 6, 6)))
    assert [report.done_epochs for report in reports] == list(range(1, 25))
    assert net.level == 2
    assert min(accuracy_per_level(net, small_batches()(0))) > 0.8


def test_mode_of_the_model_is_kept() -> None:
    """Training keeps train or eval mode."""
    net = nested_small_net().eval()
    run(net, TrainConfig(dense_epochs=0, search_epochs=1), nesting=FreezeThenGrow((1, 0, 0)))
    assert not net.training


def test_frozen_parameters_stay() -> None:
    """A parameter without requires_grad is not trained in any stage."""
    model = small_net()
    model[3].weight.requires_grad_(False)
    before = model[3].weight.clone()
    net = nest(model, densities=(0.5, 1.0))
    run(net)
    assert torch.equal(net.nested_layers()["3"].weight, before)


def test_bad_runs_are_errors() -> None:
    """Missing batches, a loss that is not finite, and outputs without soft labels give an error with the next step."""
    net = nested_small_net()
    with pytest.raises(TrainingError, match="gave no batch"):
        train(net, lambda epoch: [], F.cross_entropy)
    with pytest.raises(TrainingError, match=r"lower TrainConfig\.lr"):
        train(net, small_batches(), lambda y, _: y.sum() * float("nan"))
    vector = nest(nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0)), densities=(0.5,))
    with pytest.raises(TrainingError, match="distill_weight=0"):
        train(vector, small_batches(), lambda y, t: F.mse_loss(y, t.float()), TrainConfig(dense_epochs=0))
    train(
        vector,
        small_batches(),
        lambda y, t: F.mse_loss(y, t.float()),
        TrainConfig(distill_weight=0, dense_epochs=0),
        nesting=GROW,
    )


class Answering(nn.Module):
    """A classifier that returns something else than its logits, in the given modes."""

    def __init__(self, answer: Callable[[Tensor], Any], modes: tuple[bool, ...]) -> None:
        super().__init__()
        self.net, self.answer, self.modes = small_net(), answer, modes

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        return self.answer(logits) if self.training in self.modes else logits


@pytest.mark.parametrize("modes", [(True, False), (True,), (False,)])
@pytest.mark.parametrize("answer", [lambda y: {"logits": y}, lambda y: (y, y)])
def test_outputs_without_soft_labels_are_refused_at_the_first_batch(
    answer: Callable[[Tensor], Any], modes: tuple[bool, ...], tmp_path: Path
) -> None:
    """The error comes before the dense epochs, which need no soft labels; without distillation the model trains."""
    net, reports, path = nest(Answering(answer, modes), densities=(0.2, 0.6)), list[EpochReport](), tmp_path / "state"

    def loss_fn(y: Any, t: Tensor) -> Tensor:
        logits = y if isinstance(y, Tensor) else y["logits"] if isinstance(y, dict) else y[0]
        return F.cross_entropy(logits, t)

    with pytest.raises(TrainingError, match=r"logits alone.*got (dict|tuple); set distill_weight=0"):
        train(net, small_batches(), loss_fn, QUICK, nesting=GROW, state_path=path, on_progress=reports.append)
    assert not reports
    assert not path.exists()
    plain = TrainConfig(dense_epochs=1, search_epochs=1, recalibration_samples=0, distill_weight=0)
    assert train(net, small_batches(), loss_fn, plain, nesting=FreezeThenGrow(1), state_path=path)


def test_the_check_of_the_first_batch_changes_no_training() -> None:
    """Weights and norm statistics equal those of a run without soft labels, where nothing is checked."""
    found = []
    for weight in (0.0, 0.5):
        net, config = nested_small_net(), TrainConfig(dense_epochs=2, search_epochs=1, distill_weight=weight)
        watch = at_phase_ends(net, snapshot)
        run(net, config, on_progress=watch)
        found.append(watch.seen["dense"])  # type: ignore[attr-defined]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_batches_without_a_length_work() -> None:
    """A generator per epoch is enough; schedules then advance by whole epochs."""
    net = nested_small_net()
    reports = train(net, lambda epoch: iter(list(small_batches()(epoch))), F.cross_entropy, QUICK)
    assert len(reports) == 2 + 1 + 3 * 4
    assert net.density(0) < 0.15


def test_progress_bar_takes_every_report(capsys: pytest.CaptureFixture[str]) -> None:
    """The bar shows the stage and ends complete."""
    with ProgressBar() as bar:
        run(nested_small_net(), TrainConfig(dense_epochs=1, search_epochs=0), nesting=Joint(epochs=1), on_progress=bar)
    assert "2/2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dense_epochs", -1),
        ("search_epochs", 1.5),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("optimizer", "sdg"),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("lr_schedule", "linear"),
        ("lr", "fast"),
        ("masks_per_epoch", 0),
        ("precision", "int8"),
        ("distill_weight", 2.0),
        ("distill_temperature", 0.0),
        ("recalibration_samples", -1),
    ],
)
def test_settings_are_checked(field: str, value: object) -> None:
    """Every field out of range gives an error with its name."""
    with pytest.raises(TrainingError, match=f"TrainConfig.{field}: expected"):
        TrainConfig(**{field: value})  # type: ignore[arg-type]


def test_epochs_for_another_level_count_are_an_error() -> None:
    """A tuple of epochs must have one per level."""
    with pytest.raises(TrainingError, match="3 of them"):
        run(nested_small_net(), nesting=FreezeThenGrow(epochs_per_level=(1, 2)))


def test_empty_rings_start_a_level_as_the_one_below() -> None:
    """With ring_start="zero" and no epochs, every level computes the same as level 0."""
    net = nested_small_net().eval()
    config = TrainConfig(dense_epochs=1, search_epochs=1, recalibration_samples=0)
    run(net, config, nesting=FreezeThenGrow((1, 0, 0), ring_start="zero"))
    x, outputs = torch.randn(2, 1, 8, 8), []
    for level in range(3):
        net.set_level(level)
        outputs.append(net(x))
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_a_level_keeps_what_its_own_search_trained() -> None:
    """With a search for each level, its norms and biases are not reset to those of the level below."""
    net, seen = nested_small_net(), {}
    config = TrainConfig(dense_epochs=1, search_epochs=1, recalibration_samples=0)
    nesting = FreezeThenGrow(epochs_per_level=0, search_each=True)
    run(net, config, nesting=nesting, on_progress=lambda report: seen.update({report.stage: snapshot(net)}))
    final = snapshot(net)
    for level in (1, 2):
        trained = seen[f"search {level}"]
        for key in (key for key in final if f".norms.{level}." in key):
            assert torch.equal(final[key], trained[key])
            assert "num_batches" in key or not torch.equal(
                final[key], final[key.replace(f".norms.{level}.", f".norms.{level - 1}.")]
            )
        assert torch.equal(final["model.9.bias"][level], trained["model.9.bias"][level])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_computes_in_it_and_learns(precision: str) -> None:
    """Convolutions run in the given type, weights stay float32, and every level learns an easy task."""
    net, seen = nested_small_net(), set()
    hook = net.nested_layers()["3"].register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    config = TrainConfig(dense_epochs=6, search_epochs=3, precision=precision, recalibration_samples=0)
    run(net, config, nesting=FreezeThenGrow(epochs_per_level=3))
    hook.remove()
    assert seen == {getattr(torch, precision)}
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert min(accuracy_per_level(net, small_batches()(0))) > 0.8
