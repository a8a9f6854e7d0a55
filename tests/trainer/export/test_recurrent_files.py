"""Files of recurrent networks: free lengths, states that go from run to run, and int8."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import Speech
from torch import Tensor, nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import ExportError, InputError
from nested_sparse.metadata import INDEPENDENT
from nested_sparse.runtime import Session
from nested_sparse.trainer import export, nest
from nested_sparse.value_type import FLOAT32, INT8


class Streaming(nn.Module):
    """A network that is given its states, as torch has them: sequences are dimension 1."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 8, num_layers=2), nn.Linear(8, 3)

    def forward(self, x: Tensor, hidden: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (hidden, cells) = self.rnn(x, (hidden, cells))
        return self.head(y), hidden, cells


def test_lengths_and_sequences_are_free(tmp_path: Path) -> None:
    """A stream in pieces of any length answers as the whole, for any number of sequences; others are refused."""
    torch.manual_seed(0)
    net = nest(Streaming().eval(), densities=(0.2, 0.5), pattern="block4x1")
    sizes = {0: torch.export.Dim("length", min=1, max=20), 1: "streams"}
    path = export(
        net,
        (torch.randn(7, 2, 6), torch.zeros(2, 2, 8), torch.zeros(2, 2, 8)),
        tmp_path / "net.safetensors",
        dynamic_shapes=(sizes, {1: "streams"}, {1: "streams"}),
        output_names=("y", "hidden_out", "cells_out"),
        tolerance=1e-5,
    )
    x = torch.randn(14, 5, 6).numpy()
    with Session(path, threads=1) as session, torch.no_grad():
        for level in range(2):
            net.set_level(level)
            hidden = cells = np.zeros((2, 5, 8), np.float32)
            pieces = []
            for piece in np.split(x, [1, 4, 5]):
                out = session.run({"x": piece, "hidden": hidden, "cells": cells}, level=level)
                hidden, cells = out["hidden_out"], out["cells_out"]
                pieces.append(out["y"])
            whole, *last = net(torch.from_numpy(x), torch.zeros(2, 5, 8), torch.zeros(2, 5, 8))
            np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-5)
            for got, expected in zip((hidden, cells), last, strict=True):
                np.testing.assert_allclose(got, expected, atol=1e-5)
        for steps, batch in ((0, 5), (21, 5), (3, 4)):
            with pytest.raises(InputError, match=r"'x'|'hidden'"):
                session.run({"x": np.zeros((steps, batch, 6), np.float32), "hidden": hidden, "cells": cells})


def test_an_int8_file_says_what_stays_float(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Matrices for hidden states keep float32; those for inputs are int8."""
    torch.manual_seed(0)
    net = nest(Speech().eval(), densities=(0.4, 0.9))
    x, state = torch.randn(48, 9, 6), torch.rand(48, 1, 7)
    with caplog.at_level(logging.WARNING):
        path = export(
            net,
            (x[:2], state[:2]),
            tmp_path / "net.safetensors",
            values="int8",
            calibration=[((x, state), torch.zeros(48))],
        )
    with Checkpoint.open(path) as checkpoint:
        assert checkpoint.metadata.format_version == 5
        for layer in checkpoint.layers:
            assert layer.value_type is (FLOAT32 if layer.op in ("lstm", "gru") else INT8), layer.name
    assert "'gru.hh_l0' stays float32" in caplog.text


def test_an_int8_file_of_a_network_with_states(tmp_path: Path) -> None:
    """Its calibration is cut into samples along the batch of each input, dimension 1 of the states."""
    torch.manual_seed(0)
    net = nest(Streaming().eval(), densities=(0.4, 0.9))
    example = torch.randn(5, 1, 6), torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    batch = torch.randn(5, 90, 6), torch.randn(2, 90, 8), torch.randn(2, 90, 8)
    path = export(
        net,
        example,
        tmp_path / "net.safetensors",
        dynamic_shapes=({1: "batch"}, {1: "batch"}, {1: "batch"}),
        values="int8",
        calibration=[(batch, torch.zeros(90))],
    )
    with Session(path, threads=1) as session:
        assert [spec.batch_axis for spec in (*session.inputs, *session.outputs)] == [1] * 6
        assert session.rows == INDEPENDENT


class Packs(nn.Module):
    """A network that packs its sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])


class Projects(nn.Module):
    """A network whose LSTM has a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 8, batch_first=True, proj_size=5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (Packs(), (torch.rand(2, 5, 6), torch.tensor([5, 3])), "it packs sequences of different lengths.*padded"),
        (Projects(), (torch.rand(2, 5, 6),), r"module 'rnn' \(LSTM\) cannot be traced: its proj_size is 5.*a Linear"),
    ],
)
def test_a_net_that_no_graph_can_hold_is_told_so(
    model: nn.Module, inputs: tuple[Tensor, ...], message: str, tmp_path: Path
) -> None:
    """The error says the property, and the way round it; no file is left."""
    with pytest.raises(ExportError, match=message):
        export(nest(model.eval(), densities=(0.4, 0.9)), inputs, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())
