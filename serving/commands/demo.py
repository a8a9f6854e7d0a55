"""`nested-sparse demo`: the main task, from training to the table."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .command import PATH, Number


@click.option(
    "--data",
    type=PATH,
    help="Folder of IDX files (train-images-idx3-ubyte[.gz] …) to train on. [default: embedded digits]",
)
@click.option("--out", type=PATH, default=Path("demo-out"), help="Folder for the checkpoint and the training state.")
@click.option("--picture", type=PATH, default=Path("demo.png"), help="File of the picture.")
@click.option(
    "--phase-s",
    type=Number(0.5, 3600.0),
    default=8.0,
    help="Seconds of the quiet and the co-runner phase; the burst is a quarter.",
)
@click.option("--force", is_flag=True, help="Train again, and replace existing files.")
@click.option("as_json", "--json", is_flag=True, help="Only one JSON line on stdout; the rest on stderr.")
def demo(data: Path | None, out: Path, picture: Path, phase_s: float, force: bool, as_json: bool) -> None:
    """Train a nested checkpoint, serve it, and load it: quiet, burst, co-runner; every fixed level, then elastic,
    then elastic with the same weights in int8.

    It takes under five minutes on two cores, about ten with a large --data set. A stopped run is resumed. A checkpoint
    that an earlier run finished in the same folder is used again, unless --force is given.

    Example: `nested-sparse demo --data ../shared/data/fashion_mnist`
    """
    import signal
    import sys

    from ..demo.run import DemoOptions, run_demo

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server and the co-runners go down with it
    figures = run_demo(DemoOptions(data, out, picture, phase_s, force), sys.stderr if as_json else sys.stdout)
    if as_json:
        print(json.dumps(figures))
