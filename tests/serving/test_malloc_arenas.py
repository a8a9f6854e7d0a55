"""MallocArenas: a server's threads share two heaps of the C library, or as many as the environment says."""

from __future__ import annotations

import itertools
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nested_sparse.serving.bench.serving.server_process import running_server
from support import EXAMPLE

HEAP_BYTES = 64 << 20
"""Address space of one heap of an arena beside the main one, on 64-bit glibc; each starts at a multiple of it."""
ALLOCATE_IN_THREADS = """
import ctypes, os, sys, threading
from nested_sparse.serving.malloc_arenas import limit_arenas

print(limit_arenas(*map(int, sys.argv[1:])), flush=True)
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
together = threading.Barrier(9)

def allocate():
    malloc(ctypes.c_size_t(100))
    together.wait()
    together.wait()

for _ in range(8):
    threading.Thread(target=allocate).start()
together.wait()
print(open("/proc/self/maps").read())
together.wait()
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or sys.maxsize < 2**32, reason="arenas are those of 64-bit glibc"
)


def heaps(maps: str) -> int:
    """The heaps beside the main one in the text of /proc/PID/maps: a part in use, and the rest, without access."""
    ranges = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) (rw-p|---p) 0+ 00:00 0 *$", maps, re.MULTILINE)
    parts = [(int(begin, 16), int(end, 16), access) for begin, end, access in ranges]
    return sum(
        used[0] % HEAP_BYTES == 0
        and (used[2], rest[2]) == ("rw-p", "---p")
        and used[1] == rest[0]
        and rest[1] >= used[0] + HEAP_BYTES
        for used, rest in itertools.pairwise(parts)
    )


def in_process(*arguments: str, **environment: str) -> tuple[str, int]:
    """The answer of limit_arenas() in a process of its own, and the number of heaps of eight threads there."""
    kept = {key: value for key, value in os.environ.items() if key not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    command = [sys.executable, "-c", ALLOCATE_IN_THREADS, *arguments]
    output = subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=True).stdout
    answer, _, maps = output.partition("\n")
    return answer, heaps(maps)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_threads_share_as_many_arenas_as_were_said(most: int) -> None:
    """The main one is of no heap of its own."""
    assert in_process(str(most)) == ("True", most - 1)


@pytest.mark.parametrize(
    "environment", [{"MALLOC_ARENA_MAX": "4"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}], ids=str
)
def test_a_limit_of_the_environment_stays(environment: dict[str, str]) -> None:
    assert in_process(**environment) == ("False", 3)


def test_a_server_has_two_arenas(monkeypatch: pytest.MonkeyPatch) -> None:
    """One heap beside the main one, with the threads of gRPC, of its models and of its metrics at work."""
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    with running_server(EXAMPLE, ["--metrics-port", "0"]) as server:
        assert heaps(Path(f"/proc/{server.pid}/maps").read_text()) == 1
