"""The command line: `nested-sparse VERB …`. Results on stdout, logs on stderr."""

from __future__ import annotations

import logging
import sys

import click

from nested_sparse import __version__
from nested_sparse.errors import NestedSparseError
from nested_sparse.excerpt import paragraph

from .commands.bench import bench
from .commands.command import command_of, group, usage_text
from .commands.demo import demo
from .commands.inspect import inspect
from .commands.nest import nest
from .commands.profile import profile
from .commands.publish import publish
from .commands.serve import ServeCommand, serve
from .commands.sign import sign
from .commands.slice import slice_file
from .commands.top import top
from .commands.train import STOPPED_EXIT_CODE, train
from .log import set_up_log
from .streams import prepare_streams


def _version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        print(f"nested-sparse {__version__}")
        ctx.exit()


app = group(
    "nested-sparse", "One checkpoint, several sparse levels: train it, look at it, cut it, measure it, serve it."
)
shown = click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version and end."
)
shown(app)
for name, function in (
    ("train", train),
    ("nest", nest),
    ("inspect", inspect),
    ("slice", slice_file),
    ("sign", sign),
    ("publish", publish),
    ("profile", profile),
):
    app.add_command(command_of(name, function))
app.add_command(command_of("serve", serve, ServeCommand))
app.add_command(command_of("top", top))
app.add_command(command_of("demo", demo))
app.add_command(bench)


def main() -> None:
    """Console script. Errors of ours and of the system are a line on stderr and exit code 1.

    Wrong usage is code 2, and Ctrl-C is 130, as a shell says of a signal; but `serve` and `top` end well by it.
    """
    prepare_streams()
    set_up_log()
    try:
        try:
            code = app.main(prog_name="nested-sparse", standalone_mode=False)
        finally:
            sys.stdout.flush()  # else what cannot be written would come up when the interpreter ends, as its own words
        sys.exit(code or 0)
    except click.UsageError as error:
        print(usage_text(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        print("nested-sparse: stopped", file=sys.stderr)
        sys.exit(STOPPED_EXIT_CODE)
    except BrokenPipeError:  # the reader of the output has gone, as `head` does
        sys.exit(1)
    except (NestedSparseError, OSError) as error:
        print(f"nested-sparse: {paragraph(str(error))}", file=sys.stderr)
        sys.exit(1)
    except Exception:
        logging.getLogger(__name__).critical("nested-sparse failed; please report this", exc_info=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
