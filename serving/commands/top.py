"""`nested-sparse top`: a live view of a running server."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from pathlib import Path

import click

from .command import PATH, Number, argument


@argument(
    "address", required=False, default="127.0.0.1:8001", metavar="[ADDRESS]", help="HOST:PORT of the server's gRPC."
)
@click.option(
    "--metrics",
    metavar="ADDRESS",
    help="HOST:PORT of its Prometheus text; default: the one that it announces.",
    show_default=False,
)
@click.option("--tls-ca", type=PATH, metavar="FILE", help="PEM file of the authority of its certificate: TLS is used.")
@click.option("--tls-cert", type=PATH, metavar="FILE", help="PEM file of this client's certificate.")
@click.option("--tls-key", type=PATH, metavar="FILE", help="PEM file of that certificate's key.")
@click.option("--token-file", type=PATH, metavar="FILE", help="File of a token that has the right of reading, alone.")
@click.option("--interval", type=Number(0.05), default=1.0, help="Seconds between refreshes.")
@click.option("--once", is_flag=True, help="Show one interval and end.")
@click.option("--json", is_flag=True, help="One JSON line per refresh.")
def top(
    address: str,
    metrics: str | None,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
    interval: float,
    once: bool,
    json: bool,
) -> None:
    """Watch a running server: rate, requests in time, levels served, queue, slowdown, latencies of the last interval.

    Levels, outcomes and percentiles come from the metrics, which `serve --metrics-port` offers. Without them, and from
    other servers of the protocol (Triton), rates and mean times are shown. It goes on when the server stops, and shows
    it again when it is back.

    Example: `nested-sparse top 127.0.0.1:8001 --interval 2`
    """
    from ..top.access import Access, read_token
    from ..top.source import CountsSource
    from ..top.watch import watch

    token = "" if token_file is None else read_token(token_file)
    access = Access(tls_ca, tls_cert, tls_key, token)
    with suppress(KeyboardInterrupt), closing(CountsSource(address, metrics, access=access)) as source:
        watch(source, sys.stdout, interval_s=interval, refreshes=1 if once else None, json=json)
