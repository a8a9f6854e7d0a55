"""Without AMX: the system's refusal, seen by a command and by its children."""

from __future__ import annotations

import subprocess
import sys

import pytest

from nested_sparse.serving.bench.kernels.peers.no_amx import NO_AMX_SCRIPT, has_amx

ASK = "import ctypes; print(ctypes.CDLL(None).syscall(158, 0x1023, 18))"
NESTED = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ASK!r}], check=True)"


def said(*command):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)


@pytest.mark.skipif(not has_amx(), reason="the processor has no AMX, or the system does not give it to processes")
@pytest.mark.parametrize("code", [ASK, NESTED])
def test_amx_is_refused(code):
    """The request for AMX's state, which is granted otherwise, fails; everything else goes on."""
    assert said("-c", code).stdout == "0\n"
    assert said(str(NO_AMX_SCRIPT), sys.executable, "-c", code).stdout == "-1\n"


@pytest.mark.skipif(has_amx(), reason="the processor has AMX")
def test_without_amx_there_is_nothing_to_forbid():
    refused = said(str(NO_AMX_SCRIPT), sys.executable, "-c", "pass")
    assert refused.returncode == 1
    assert "no AMX" in refused.stderr
