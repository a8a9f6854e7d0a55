"""Core count: Python processes with this folder in PYTHONPATH see NESTED_SPARSE_TEST_CORES cores.

For tools/test_settings.sh, on machines that have fewer: what reads the count takes its other paths, though no sooner. A
process may still keep to one of the cores that it believes in; it then keeps to one that there is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

COUNT = int(os.environ.get("NESTED_SPARSE_TEST_CORES", "0"))

if COUNT and hasattr(os, "sched_getaffinity"):
    real_get, real_set = os.sched_getaffinity, os.sched_setaffinity
    there, believed = real_get(0), set(range(COUNT))
    asked = {frozenset(there): believed}

    def get_affinity(pid: int) -> set[int]:
        """The requested cores if they exist, else the real ones."""
        found = real_get(pid)
        return set(asked.get(frozenset(found), found))

    def set_affinity(pid: int, cores: Iterable[int]) -> None:
        """Those of `cores` that there are, or the last one."""
        wanted = set(cores)
        kept = there if wanted == believed else (wanted & there or {max(there)})
        real_set(pid, kept)
        asked[frozenset(kept)] = wanted

    os.sched_getaffinity, os.sched_setaffinity = get_affinity, set_affinity
    os.cpu_count = lambda: COUNT
