"""`nested-sparse bench`: benchmarks that verify their outputs, print a table, and end with one JSON line."""

from __future__ import annotations

from .bench_front import front
from .bench_kernels import kernels
from .bench_loadgen import loadgen
from .bench_networks import networks
from .bench_server import server
from .bench_serving import serving
from .command import command_of, group

bench = group("bench", "Benchmarks: verified outputs, a table, one JSON line last.")
for name, function in (
    ("front", front),
    ("kernels", kernels),
    ("loadgen", loadgen),
    ("networks", networks),
    ("server", server),
    ("serving", serving),
):
    bench.add_command(command_of(name, function))
