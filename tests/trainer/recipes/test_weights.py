"""Weights: the file of a state dict that a recipe names, and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nested_sparse.errors import TrainingError
from nested_sparse.trainer.recipes.run import load_weights
from nested_sparse.trainer.zoo import DigitNet


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"cannot be read \(No such file or directory\)"),
        (b"[data]\nname = 'digits'\n", r"is not a file of weights \(\w+\)"),
        ([1, 2], r"do not fit the model \(Expected state_dict to be dict-like, got .*list.*\)"),
        ({"other": torch.ones(1)}, r"do not fit the model \(Error.* Missing key\(s\) .*Unexpected key\(s\) .*\)"),
    ],
    ids=["missing", "a recipe", "a list", "another model's"],
)
def test_weights_that_cannot_be_used_are_said_in_one_line(tmp_path: Path, content: object, said: str) -> None:
    """The message has the file, the trouble without torch's layout and advice, and what to give."""
    path = tmp_path / "mine.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    message = rf"weights {path}: {said}; expected a state dict that torch\.save wrote of a DigitNet$"
    with pytest.raises(TrainingError, match=message) as caught:
        load_weights(DigitNet(width=4), path)
    assert len(str(caught.value)) < 1000
    assert not {"\n", "\\", "\t"} & set(str(caught.value))
