"""`nested-sparse top`: a live view of a running server."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from .output import PIPED_WIDTH


def top(
    address: Annotated[str, typer.Argument(help="HOST:PORT of the server's gRPC.", metavar="[ADDRESS]")] = (
        "127.0.0.1:8001"
    ),
    metrics: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of its Prometheus text; default: the one that it announces.",
            metavar="ADDRESS",
            show_default=False,
        ),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        typer.Option("--tls-ca", help="PEM file of the authority of its certificate: TLS is used.", metavar="FILE"),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", help="PEM file of this client's certificate.", metavar="FILE")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", help="PEM file of that certificate's key.", metavar="FILE")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File of a token that has the right of reading, alone.", metavar="FILE")
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between refreshes.", min=0.05)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show one interval and end.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON line per refresh.")] = False,
) -> None:
    """Watch a running server: rate, requests in time, levels served, queue, slowdown, latencies of the last interval.

    Levels, outcomes and percentiles come from the metrics, which `serve --metrics-port` offers. Without them, and from
    other servers of the protocol (Triton), rates and mean times are shown. It goes on when the server stops, and shows
    it again when it is back.

    Example: `nested-sparse top 127.0.0.1:8001 --interval 2`
    """
    from rich.console import Console

    from ..top.access import Access, read_token
    from ..top.source import CountsSource
    from ..top.watch import watch

    token = "" if token_file is None else read_token(token_file)
    access = Access(tls_ca, tls_cert, tls_key, token)
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
    with suppress(KeyboardInterrupt), closing(CountsSource(address, metrics, access=access)) as source:
        watch(source, console, interval_s=interval, refreshes=1 if once else None, json=json)
