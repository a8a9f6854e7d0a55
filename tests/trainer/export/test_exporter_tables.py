"""Exporter tables: they are made once, are every export's own, and are made again for new operators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._export import utils
from torch.onnx._internal.exporter._registration import ONNXRegistry

from nested_sparse.trainer import export, nest
from nested_sparse.trainer.export import exporter_tables
from nested_sparse.trainer.export.exporter_tables import kept_tables

ADD = torch.ops.aten.add.Tensor


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The tables that torch makes from now on, in place of which a table of one translation is made."""
    tables: list[Any] = []

    def from_torchlib(kind: Any, opset_version: int = 18) -> Any:
        table = kind()
        table.register_op(ADD, lambda x, y: x)
        tables.append(table)
        return table

    monkeypatch.setattr(ONNXRegistry, "from_torchlib", classmethod(from_torchlib))
    monkeypatch.setattr(exporter_tables, "_kept", {})
    return tables


def test_a_table_is_made_once_and_each_export_has_its_own(made: list[Any]) -> None:
    with kept_tables():
        first, second = ONNXRegistry.from_torchlib(), ONNXRegistry().from_torchlib()
        first.register_op(ADD, lambda x, y: y)
        first.register_op(torch.ops.aten.mul.Tensor, lambda x, y: y)
        third = ONNXRegistry.from_torchlib()
    assert len(made) == 1
    assert [len(each.get_decomps(ADD)) for each in (first, second, third)] == [2, 1, 1]
    assert not third.is_registered(torch.ops.aten.mul.Tensor)


def test_other_options_and_new_operators_have_a_new_table(made: list[Any]) -> None:
    """An operator of torch may have a translation that the table of before lacks."""
    library = torch.library.Library("nested_sparse_test_translations", "DEF")
    with kept_tables():
        for opset_version, count in ((18, 1), (20, 2), (20, 2)):
            ONNXRegistry.from_torchlib(opset_version=opset_version)
            assert len(made) == count
        library.define("one(Tensor x) -> Tensor")
        ONNXRegistry.from_torchlib(opset_version=20)
    assert len(made) == 3


def test_a_users_own_export_is_left_alone(made: list[Any]) -> None:
    """Outside of the context, also after an error in it."""
    before = ONNXRegistry.__dict__["from_torchlib"]
    with pytest.raises(ValueError, match="mine"), kept_tables():
        raise ValueError("mine")
    assert ONNXRegistry.__dict__["from_torchlib"] is before
    ONNXRegistry.from_torchlib()
    ONNXRegistry.from_torchlib()
    assert len(made) == 2


def test_operators_are_searched_once_in_each_export(monkeypatch: pytest.MonkeyPatch) -> None:
    searches: list[int] = []
    monkeypatch.setattr(utils, "_materialize_cpp_cia_ops", lambda: searches.append(1))
    before = utils._materialize_cpp_cia_ops
    for count in (1, 2):
        with kept_tables():
            for _ in range(3):
                utils._materialize_cpp_cia_ops()
        assert len(searches) == count
    assert utils._materialize_cpp_cia_ops is before


def test_a_kept_table_writes_the_same_file(tmp_path: Path) -> None:
    """As a table that is made for the export."""
    net = nest(nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 4)), densities=(0.3, 0.8), pattern="block4x1")
    example = (torch.ones(1, 8),)
    exporter_tables._kept.clear()
    for name in ("made", "kept"):
        export(net, example, tmp_path / name, verify=False)
        assert len(exporter_tables._kept) == 1
    assert (tmp_path / "made").read_bytes() == (tmp_path / "kept").read_bytes()
