"""`nested-sparse demo`: the main task, from training to the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

TABLE_WIDTH = 124
"""Columns of the table; a narrower terminal wraps its lines, so that no figure is lost."""


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of IDX files (train-images-idx3-ubyte[.gz] …) to train on. [default: embedded digits]"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and the training state.")] = Path("demo-out"),
    picture: Annotated[Path, typer.Option(help="File of the picture.")] = Path("demo.png"),
    phase_s: Annotated[
        float,
        typer.Option(help="Seconds of the quiet and the co-runner phase; the burst is a quarter.", min=0.5, max=3600.0),
    ] = 8.0,
    force: Annotated[bool, typer.Option("--force", help="Train again, and replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Only one JSON line on stdout; the rest on stderr.")] = False,
) -> None:
    """Train a nested checkpoint, serve it, and load it: quiet, burst, co-runner; every fixed level, then elastic,
    then elastic with the same weights in int8.

    It takes under five minutes on two cores, about ten with a large --data set. A stopped run is resumed. A checkpoint
    that an earlier run finished in the same folder is used again, unless --force is given.

    Example: `nested-sparse demo --data ../shared/data/fashion_mnist`
    """
    import signal
    import sys

    from rich.console import Console

    from ..demo.run import DemoOptions, run_demo

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server and the co-runners go down with it
    console = Console(stderr=as_json)
    console.width = max(console.width, TABLE_WIDTH)
    figures = run_demo(DemoOptions(data, out, picture, phase_s, force), console)
    if as_json:
        print(json.dumps(figures))
