"""Command: `python -m nested_sparse.runtime.simulation [ARRIVALS.npz]` prints the comparison, for development."""

from __future__ import annotations

import sys
from itertools import groupby

from .comparison import compare, default_contentions, default_policies, default_traces, figures
from .world import World


def main(arguments: list[str]) -> None:
    """Prints effective accuracy, and attainment of elastic, for every trace and contention."""
    world = World()
    traces = default_traces(world, file=arguments[0] if arguments else None)
    rows = compare(traces, default_contentions(), default_policies, world)
    head = ("trace", "cv2", "corunner", *default_policies(world), "oracle", "of oracle", "attained")
    print("  ".join(f"{name:>9}" for name in head))
    for _, group in groupby(rows, key=lambda row: (row.trace, row.contention)):
        cells = list(group)
        first = cells[0]
        texts = [f"{first.trace[-9:]:>9}", f"{first.cv2:>9.1f}", f"{first.contention:>9}"]
        texts += [f"{100 * row.effective_accuracy:>9.2f}" for row in cells]
        texts += [f"{first.of_oracle:>9.3f}", f"{first.attainment:>9.4f}"]
        print("  ".join(texts))
    print(figures(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
