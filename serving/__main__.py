"""Entry point: `nested-sparse` and `python -m nested_sparse.serving`, ready to be stopped before anything else."""

from __future__ import annotations

from .ending import prepare
from .uncollected import uncollected


def main() -> None:
    """Console script."""
    prepare()
    with uncollected():
        from .cli import main as run  # takes 0.15 s

    run()


if __name__ == "__main__":
    main()
