"""The command line: `nested-sparse VERB …`. Results on stdout, logs on stderr."""

from __future__ import annotations

import logging
import sys

import typer

from nested_sparse.errors import NestedSparseError
from nested_sparse.excerpt import paragraph
from nested_sparse.serving.commands.bench import bench
from nested_sparse.serving.commands.demo import demo
from nested_sparse.serving.commands.inspect import inspect
from nested_sparse.serving.commands.profile import profile
from nested_sparse.serving.commands.serve import serve
from nested_sparse.serving.commands.slice import slice_file
from nested_sparse.serving.commands.top import top
from nested_sparse.serving.commands.train import train
from nested_sparse.serving.log_format import set_up_log

app = typer.Typer(
    name="nested-sparse",
    help="One checkpoint, several sparse levels: train it, look at it, cut it, measure it, serve it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("train")(train)
app.command("inspect")(inspect)
app.command("slice")(slice_file)
app.command("profile")(profile)
app.command("serve")(serve)
app.command("top")(top)
app.command("demo")(demo)
app.add_typer(bench, name="bench")


def main() -> None:
    """Console script. Our own errors are one line on stderr and exit code 1; wrong usage is exit code 2."""
    set_up_log()
    try:
        app()
    except NestedSparseError as error:
        print(f"nested-sparse: {paragraph(str(error))}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        logging.getLogger(__name__).critical("nested-sparse failed; please report this", exc_info=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
