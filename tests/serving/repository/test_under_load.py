"""Versions that are swapped while clients ask: no request fails, and the command line serves the folder."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clients import tensor, triton, wait_for

from nested_sparse.slice import slice_checkpoint
from support import EXAMPLE


def put(root: Path, version: int) -> None:
    """Version N has N levels."""
    (root / f"net/{version}").mkdir(parents=True)
    slice_checkpoint(EXAMPLE, version, root / f"net/{version}/model.safetensors")


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """`serve --model-dir` of a folder with version 1 of net: its address, and the folder."""
    root = tmp_path / "models"
    put(root, 1)
    options = ["--model-dir", root, "--port", "0", "--json", "--threads", "1", "--slo-ms", "60000"]
    command = [sys.executable, "-m", "nested_sparse.serving", "serve", *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"], root
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()


def test_versions_change_under_load_and_no_request_fails(server: Any) -> None:
    """Every answer comes from the version that it names, of which it has the densest level."""
    address, root = server
    image = np.random.default_rng(0).standard_normal((1, 1, 28, 28)).astype(np.float32)
    seen: dict[str, set[int]] = {}
    errors: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        with triton.InferenceServerClient(address) as client:
            while not stop.is_set():
                try:
                    response = client.infer("net", [tensor(image, "input")], parameters={"level": -1}).get_response()
                    seen.setdefault(response.model_version, set()).add(response.parameters["level"].int64_param)
                except Exception as error:
                    errors.append(str(error))

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for each in askers:
        each.start()
    try:
        with triton.InferenceServerClient(address) as client:
            assert wait_for(lambda: "1" in seen)
            for version in (2, 3):
                put(root, version)
                client.load_model("net")
                assert list(client.get_model_metadata("net").versions) == [str(version)]
                assert wait_for(lambda version=version: str(version) in seen)
            states = {each.version: each.state for each in client.get_model_repository_index().models}
            assert states["3"] == "READY"
    finally:
        stop.set()
        for each in askers:
            each.join()
    assert errors == []
    assert seen == {"1": {0}, "2": {1}, "3": {2}}
