"""Loader: real checkpoints, opened and closed, and refused before they are used."""

from __future__ import annotations

import gc
import shutil
import weakref
from concurrent.futures import wait
from pathlib import Path

import pytest

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.errors import CheckpointError
from nested_sparse.runtime.resources.governor import Governor
from nested_sparse.runtime.resources.monitor import ResourceMonitor
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.session.session import Session
from nested_sparse.runtime.session.tensors import random_inputs
from nested_sparse.serving.load import ModelConfig
from nested_sparse.serving.repository.loader import Loader, stamp_of
from support import EXAMPLE


def config(name: str) -> ModelConfig:
    return ModelConfig(60_000.0, fixed_level=0)


def test_a_model_is_loaded_under_its_name_and_closed() -> None:
    """The log, the statistics and the governor know it as long as it is open."""
    governor = Governor(ResourceMonitor(()))
    loaded = Loader(config, governor=governor).load(EXAMPLE, "net", "7")
    model, session = loaded.model, loaded.session
    assert (model.name, model.version, session.name) == ("net", "7", "net/7")
    assert model.engine.submit(Request(random_inputs(session.inputs, 1))).result(60).level.index == 0
    assert model.engine.stats().runs == 1
    assert model.engine.stats().same_size[1].count == 1
    assert len(governor._watched) == 1
    assert loaded.close(5.0)
    assert loaded.close(5.0)  # also where it was closed before
    assert governor._watched == []
    with pytest.raises(Exception, match="closed"):
        session.run(random_inputs(session.inputs, 1))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system has no /proc/self/maps")
def test_a_closed_model_keeps_no_file(tmp_path: Path) -> None:
    """Neither mapped nor open."""
    path = tmp_path / "model.safetensors"
    shutil.copy(EXAMPLE, path)
    loaded = Loader(config).load(path, "net", "7")
    inputs = random_inputs(loaded.session.inputs, 1)
    assert loaded.model.engine.submit(Request(inputs)).result(60).level.index == 0
    assert str(path) in Path("/proc/self/maps").read_text()
    assert loaded.close(5.0)
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_a_closed_model_is_gone_without_a_garbage_collection() -> None:
    """Nothing of it refers to itself: a server that changes its versions does not grow until Python collects."""
    loaded = Loader(config).load(EXAMPLE, "net", "7")
    futures = [loaded.model.engine.submit(Request(random_inputs(loaded.session.inputs, 1))) for _ in range(8)]
    futures[-1].cancel()
    wait(futures, 60)
    parts = weakref.ref(loaded.session), weakref.ref(loaded.model.engine)
    gc.disable()
    try:
        assert loaded.close(5.0)
        del loaded
        assert [part() for part in parts] == [None, None]
    finally:
        gc.enable()


def test_a_file_of_the_command_line_has_its_own_name() -> None:
    loaded = Loader(config).load(EXAMPLE)
    assert (loaded.model.name, loaded.model.version) == (EXAMPLE.stem, "1")
    assert loaded.close(0.0)


def test_a_refused_checkpoint_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that cannot be served: its session is closed again."""

    def refuse(checkpoint: Checkpoint) -> None:
        raise CheckpointError(f"{checkpoint.path.name}: not signed")

    with pytest.raises(CheckpointError, match="not signed"):
        Loader(config, check=refuse).load(EXAMPLE)
    closed: list[str] = []
    monkeypatch.setattr(Session, "close", lambda session: closed.append(session.name))
    with pytest.raises(ValueError, match="level 9"):
        Loader(lambda name: ModelConfig(60_000.0, fixed_level=9)).load(EXAMPLE, "net", "2")
    assert closed == ["net/2"]


def test_a_file_that_was_replaced_has_another_stamp(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"a")
    before = stamp_of(path)
    assert stamp_of(path) == before
    (tmp_path / "n").write_bytes(b"a")
    (tmp_path / "n").rename(path)
    assert stamp_of(path) != before
    with pytest.raises(CheckpointError, match="cannot be read"):
        stamp_of(tmp_path / "none")
