"""Where `nested-sparse` begins, and `python -m nested_sparse.serving`: ready to be stopped before anything else."""

from __future__ import annotations

from nested_sparse.serving.ending import prepare


def main() -> None:
    """Console script."""
    prepare()
    from nested_sparse.serving.cli import main as run  # takes 0.3 s

    run()


if __name__ == "__main__":
    main()
