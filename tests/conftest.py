"""Common settings: an environment that is equal on every machine, and time limits for slow ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest

import nested_sparse  # noqa: F401 -- before any test imports onnxruntime: switches its telemetry off

ABSENT = (
    "CLICOLOR_FORCE", "FORCE_COLOR", "GITHUB_ACTIONS", "NO_COLOR", "PYTHONIOENCODING", "PY_COLORS", "TERMINAL_WIDTH",
    "TTY_COMPATIBLE", "TTY_INTERACTIVE", "_TYPER_FORCE_DISABLE_TERMINAL", "_TYPER_STANDARD_TRACEBACK",
)  # fmt: skip
"""What would colour, widen or recode the output that tests read, of themselves and of the processes they start."""

for name in ABSENT:
    os.environ.pop(name, None)
os.environ.update(COLUMNS="80", LINES="25", TERM="xterm")
for name in ("no_proxy", "NO_PROXY"):  # a proxy has no business between two processes of a test; gRPC asks one
    os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost,::1")))

# a slow machine makes no test fail: hypothesis bounds the time of an example, and of drawing it, unless told not to
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def own_cache() -> Iterator[None]:
    """Latency profiles and pictures' fonts are kept apart from the user's, and go with the tests."""
    with tempfile.TemporaryDirectory(prefix="nested-sparse-tests-", ignore_cleanup_errors=True) as folder:
        patch = pytest.MonkeyPatch()
        patch.setenv("XDG_CACHE_HOME", folder)
        patch.setenv("MPLCONFIGDIR", folder)
        yield
        patch.undo()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No test needs another before it: NESTED_SPARSE_TEST_ORDER=reversed shows it."""
    if os.environ.get("NESTED_SPARSE_TEST_ORDER") == "reversed":
        items.reverse()
