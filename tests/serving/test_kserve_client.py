"""KServe's client, unmodified, in an environment of its own: its message classes and tritonclient's clash in one."""

from __future__ import annotations

import subprocess
import sys
import venv

import pytest

KSERVE = "kserve==0.21.0"
INSTALL_LIMIT_S = 900
SCRIPT = """
import asyncio, sys
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest

async def talk():
    client = InferenceGRPCClient(sys.argv[1])
    assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready("net")
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    for raw in (True, False):
        tensor = InferInput("x", [2, 4], "FP32")
        tensor.set_data_from_numpy(x, binary_data=raw)
        answer = await client.infer(InferRequest("net", [tensor], request_id="seven", parameters={"level": 1}))
        assert answer.id == "seven"
        np.testing.assert_array_equal({each.name: each.as_numpy() for each in answer.outputs}["double"], 2 * x)
    await client.close()
    print("talked")

asyncio.run(talk())
"""


@pytest.mark.slow
def test_kserves_client_is_served(server, tmp_path):
    """Health, raw and typed values, an id and a parameter."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [str(python), "-m", "pip", "install", "-q", KSERVE]
    if subprocess.run(install, capture_output=True, timeout=INSTALL_LIMIT_S).returncode:
        pytest.skip(f"{KSERVE} cannot be installed here")
    told = subprocess.run(
        [str(python), "-c", SCRIPT, server.address], capture_output=True, text=True, timeout=INSTALL_LIMIT_S
    )
    assert told.stdout.splitlines()[-1:] == ["talked"], told.stderr
