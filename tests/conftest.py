"""Common settings: an environment that is equal on every machine, and time limits for slow ones."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest
from order import longest_first

import nested_sparse  # noqa: F401 -- before any test imports onnxruntime: switches its telemetry off

ABSENT = (
    "CLICOLOR_FORCE", "FORCE_COLOR", "GITHUB_ACTIONS", "NO_COLOR", "PYTHONIOENCODING", "PY_COLORS", "TERMINAL_WIDTH",
    "TTY_COMPATIBLE", "TTY_INTERACTIVE", "_TYPER_FORCE_DISABLE_TERMINAL", "_TYPER_STANDARD_TRACEBACK",
)  # fmt: skip
"""Environment variables that change colour, width or encoding of the output that tests read; they are removed."""

for name in ABSENT:
    os.environ.pop(name, None)
# Without bytecode each process that a test starts would compile some three hundred files of this package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.update(COLUMNS="80", LINES="25", TERM="xterm")
for name in ("no_proxy", "NO_PROXY"):  # no proxy between two processes of a test; gRPC would use one
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost,::1")))

# no test may fail on a slow machine, so hypothesis must not limit the time of an example or of its generation
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def own_cache() -> Iterator[None]:
    """A temporary cache folder, separate from the user's, for latency profiles and fonts of pictures."""
    with tempfile.TemporaryDirectory(prefix="nested-sparse-tests-", ignore_cleanup_errors=True) as folder:
        patch = pytest.MonkeyPatch()
        patch.setenv("XDG_CACHE_HOME", folder)
        patch.setenv("MPLCONFIGDIR", folder)
        yield
        patch.undo()


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist hand out files in the order of the tests; it would put files of one test last, however long."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by the files' length. NESTED_SPARSE_TEST_ORDER=reversed shows that no test depends on an earlier one."""
    items[:] = longest_first(items)
    if os.environ.get("NESTED_SPARSE_TEST_ORDER") == "reversed":
        items.reverse()
