"""Precision: arithmetic below float32 in training."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from .distributed import from_first


class Precision:
    """Autocast, and the loss scaling that float16 gradients need. name: one of config.PRECISIONS."""

    def __init__(self, name: str, device: torch.device) -> None:
        self._device, self._dtype = device.type, getattr(torch, name)
        self._scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")

    def autocast(self) -> AbstractContextManager[Any]:
        """A context in which the forward pass computes in this precision."""
        return torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the scaled loss."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Step the optimizer, unless a gradient overflowed."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def agree(self) -> None:
        """Copy process 0's scale and step count to every process: averaged gradients need one common scale."""
        state = self._scaler.state_dict()
        if state:
            names = ("scale", "_growth_tracker")
            agreed = from_first(torch.tensor([state[name] for name in names], dtype=torch.float64))
            scale, tracker = agreed.tolist()
            self._scaler.load_state_dict({**state, "scale": scale, "_growth_tracker": int(tracker)})

    def state_dict(self) -> dict[str, Any]:
        """State of the scaler."""
        return self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of the scaler."""
        self._scaler.load_state_dict(state)
