"""ServeProcess: `nested-sparse serve` as a process, for tests of whole servers."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

OPTIONS = ("--port", "0", "--json", "--threads", "1", "--slo-ms", "60000")


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[tuple[str, Any]]:
    """`serve` with OPTIONS and these arguments: its address and process. It must end in order, unless it was killed."""
    command = [sys.executable, "-m", "nested_sparse.serving", "serve", *OPTIONS, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["address"], process
            if process.poll() is None:
                process.terminate()
                assert process.wait(60) == 0
        finally:
            process.kill()
