"""Comparison: a written file against the torch model that it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nested_sparse.runtime import Session
from nested_sparse.trainer import NestedModel


def assert_answers_as_torch(net: NestedModel, path: Path, images: Tensor) -> None:
    """Every level of the file answers `images` as that level of `net`, in eval mode, does."""
    with Session(path, threads=1) as session, torch.no_grad():
        for level in range(net.level_count):
            net.set_level(level)
            got = session.run({"input": images.numpy()}, level=level)["output"]
            np.testing.assert_allclose(got, net(images).numpy(), rtol=1e-4, atol=1e-4)


def assert_levels_as_torch(net: NestedModel, path: Path, x: Tensor) -> None:
    """The file, whole or cut, answers as the model to 1e-5 of its largest output, at every level; the levels differ."""
    answers = []
    with Session(path, threads=1) as session:
        for level in range(len(session.levels)):
            net.set_level(level)
            with torch.no_grad():
                expected = net.eval()(x).numpy()
            (got,) = session.run({"input": x.numpy()}, level=level).values()
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))
            answers.append(got)
    assert len(answers) == 1 or not np.allclose(answers[0], answers[-1])
