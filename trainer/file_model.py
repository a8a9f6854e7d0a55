"""FileModel: a level of a checkpoint as a torch module without gradients, run as a device runs it."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt
from nested_sparse.level import resolve_level

from .model.structure import tensors_in


class FileModel(nn.Module):
    """Answers with the outputs of the checkpoint at `path`: a tensor where it has one, else a list of tensors.

    Inputs are the tensors of the file's inputs, in order, on any device; so are the answers. level: the level that
    answers, -1 the densest. threads: as of `runtime.Session`. Raises what Session does, and LevelError.
    """

    def __init__(self, path: str | os.PathLike[str], level: int = -1, threads: int | None = None) -> None:
        super().__init__()
        # a file is run on the runtime that will run it
        from nested_sparse.runtime import Session

        self.session = Session(path, threads=threads)
        self.level = resolve_level(level, len(self.session.levels))

    def get_extra_state(self) -> tuple[str, int]:
        """The file's digest and the level, in the state dict: a training run knows its teacher by them."""
        return self.session.digest, self.level

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The file's answer at `level`."""
        tensors = [tensor for _, tensor in tensors_in((inputs, named))]
        names = [spec.name for spec in self.session.inputs]
        if len(tensors) != len(names):
            takes = f"{len(names)} inputs ({', '.join(map(excerpt, names))})"
            raise InputError(f"{excerpt(self.session.path)}: it takes {takes}, got {len(tensors)}")
        feeds = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
        device = tensors[0].device
        answers = [torch.from_numpy(each).to(device) for each in self.session.run(feeds, level=self.level).values()]
        return answers[0] if len(answers) == 1 else answers
