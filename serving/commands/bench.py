"""`nested-sparse bench`: benchmarks that verify their outputs, print a table, and end with one JSON line."""

from __future__ import annotations

import typer

from .bench_front import front
from .bench_kernels import kernels
from .bench_loadgen import loadgen
from .bench_networks import networks
from .bench_server import server
from .bench_serving import serving

bench = typer.Typer(help="Benchmarks: verified outputs, a table, one JSON line last.", no_args_is_help=True)
bench.command("front")(front)
bench.command("kernels")(kernels)
bench.command("loadgen")(loadgen)
bench.command("networks")(networks)
bench.command("server")(server)
bench.command("serving")(serving)
