"""Default nesting: the method of a run that names none, and its share of soft labels."""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from small_models import nested_small_net, small_batches
from torch import nn

from nested_sparse.trainer import Interleaved, Joint, JointThenGrow, RigL, TrainConfig, nest, train
from nested_sparse.trainer.progress import EpochReport
from nested_sparse.trainer.schedules import Schedule


@pytest.mark.parametrize(("schedule", "phases"), [(None, {"interleaved"}), (RigL(), {"dense", "search 0"})])
def test_a_run_that_names_no_nesting_has_the_best_one_for_its_schedule(
    schedule: Schedule | None, phases: set[str]
) -> None:
    """All levels in one annealing; level by level where the schedule finds one level alone."""
    config = TrainConfig(dense_epochs=1, search_epochs=1, recalibration_samples=0)
    reports: list[EpochReport] = []

    def stop(report: EpochReport) -> None:
        reports.append(report)
        if len(reports) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(nested_small_net(), small_batches(), F.cross_entropy, config, schedule=schedule, on_progress=stop)
    assert {report.stage for report in reports} == phases


def test_no_share_of_soft_labels_suits_a_regression_in_every_nesting() -> None:
    """distill_weight=0 turns soft labels off in the default nesting, too, so outputs need not be logits."""
    vector = nest(nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0)), densities=(0.5, 0.8))
    config = TrainConfig(dense_epochs=1, search_epochs=1, lr=1e-3, recalibration_samples=0, distill_weight=0)
    for nesting in (None, Interleaved(1), Joint(1), JointThenGrow(1, epochs_per_level=0)):
        assert train(vector, small_batches(), lambda y, t: F.mse_loss(y, t.float()), config, nesting=nesting)
