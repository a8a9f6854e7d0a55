"""The peers' environments: one for each peer, made at its first use, with the versions pinned here."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from nested_sparse.errors import BenchError

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    # the last version that runs: 1.9.0 only prints a farewell. It needs an onnx and a numpy older than ours
    "deepsparse": ("deepsparse==1.8.0", "onnx==1.14.1", "numpy==1.26.4"),
    "mnn": ("MNN==3.6.1", "numpy==2.2.6"),
    "openvino": ("openvino==2026.4.1", "numpy==2.2.6"),
}

_log = logging.getLogger(__name__)


def environment(peer: str, folder: Path) -> Path:
    """The python of `peer`'s environment in `folder`, made now unless it is there with these very requirements.

    ONNX Runtime's is this process's own. Raises BenchError, with the reason, where it cannot be made.
    """
    if peer == "onnxruntime":
        return Path(sys.executable)
    home = folder / peer
    python = home / "bin" / "python"
    pinned = "\n".join(REQUIREMENTS[peer])
    marker = home / "requirements.txt"  # written last: an environment without it was never finished
    if python.exists() and marker.is_file() and marker.read_text() == pinned:
        return python
    _log.info("setting up %s in %s", ", ".join(REQUIREMENTS[peer]), home)
    _checked(peer, [sys.executable, "-m", "venv", "--clear", str(home)])
    _checked(peer, [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS[peer]])
    marker.write_text(pinned)
    return python


def _checked(peer: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    except OSError as error:
        raise BenchError(f"{peer} could not be set up: {error}") from None
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()] or ["it printed no error"]
        reason = next((line for line in said if line.startswith("ERROR")), said[-1])
        raise BenchError(f"{peer} could not be set up: {reason}")
