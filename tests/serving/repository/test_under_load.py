"""Versions that are swapped while clients ask: no request fails; and a server that is killed comes back as it was."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clients import Askers, InferenceServerException, tensor, triton, wait_for
from serve_process import started

from nested_sparse.slice import slice_checkpoint
from support import EXAMPLE

IMAGE = np.random.default_rng(0).standard_normal((1, 1, 28, 28)).astype(np.float32)
LEVELS = 4
"""Levels of the example."""


def put(root: Path, version: int, broken: bool = False) -> None:
    """Version N has 1 + (N - 1) % LEVELS levels."""
    path = root / f"net/{version}/model.safetensors"
    path.parent.mkdir(parents=True)
    slice_checkpoint(EXAMPLE, level_of(version) + 1, path)
    if broken:
        path.write_bytes(path.read_bytes()[:-1])


def level_of(version: int) -> int:
    return (version - 1) % LEVELS


class Clients(Askers):
    """They ask all the time. seen: levels that answered, by version; errors: what failed."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.seen: dict[str, set[int]] = {}
        self.errors: list[str] = []
        self._address = address

    def ask(self, _: int) -> None:
        with triton.InferenceServerClient(self._address) as client:
            while not self.stop.is_set():
                try:
                    response = client.infer("net", [tensor(IMAGE, "input")], parameters={"level": -1}).get_response()
                    level = response.parameters["level"].int64_param
                    self.seen.setdefault(response.model_version, set()).add(level)
                except Exception as error:
                    self.errors.append(str(error))


def change_versions(root: Path, last: int) -> None:
    """Bring versions 2 to `last`, every third of them broken, one after the other, while clients ask."""
    put(root, 1)
    good = [1]
    with (
        started("--model-dir", root) as (address, _),
        Clients(address) as clients,
        triton.InferenceServerClient(address) as client,
    ):
        assert wait_for(lambda: "1" in clients.seen)
        for version in range(2, last + 1):
            broken = version % 3 == 0
            put(root, version, broken)
            if broken:
                with pytest.raises(InferenceServerException, match="FAILED_PRECONDITION"):
                    client.load_model("net")
            else:
                client.load_model("net")
                good.append(version)
            assert list(client.get_model_metadata("net").versions) == [str(good[-1])]
            assert wait_for(lambda: str(good[-1]) in clients.seen)
    assert clients.errors == []
    assert clients.seen == {str(version): {level_of(version)} for version in good}


def test_versions_change_under_load_and_no_request_fails(tmp_path: Path) -> None:
    """Every answer comes from the version that it names, of which it has the densest level."""
    change_versions(tmp_path / "models", 4)


@pytest.mark.slow
def test_many_versions_change_under_load(tmp_path: Path) -> None:
    change_versions(tmp_path / "models", 120)


def test_a_server_that_was_killed_comes_back(tmp_path: Path) -> None:
    """Killed in the middle of a load: the next start serves the latest version that is whole."""
    root = tmp_path / "models"
    put(root, 1)
    with started("--model-dir", root) as (address, process), triton.InferenceServerClient(address) as client:
        client.infer("net", [tensor(IMAGE, "input")])
        put(root, 2)
        loading = threading.Thread(target=load, args=[client])
        loading.start()
        process.kill()
        process.wait()
        loading.join()
    put(root, 3, broken=True)
    with started("--model-dir", root) as (address, _), triton.InferenceServerClient(address) as client:
        assert client.infer("net", [tensor(IMAGE, "input")]).get_response().model_version == "2"


def load(client: Any) -> None:
    """Load net, however that ends."""
    with contextlib.suppress(InferenceServerException):
        client.load_model("net")
