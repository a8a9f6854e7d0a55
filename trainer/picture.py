"""Picture: a plot of each level's quality over its FLOPs, with the dense model for reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nested_sparse.errors import TrainingError
from nested_sparse.level import ACCURACY


def draw(
    path: Path,
    title: str,
    levels: Sequence[Mapping[str, Any]],
    dense: Mapping[str, Any],
    split: str,
    quality: str = ACCURACY,
) -> None:
    """Save a PNG.

    levels, dense: "flops" of one sample and the metric `quality`, which may be None for `dense` when unknown. A level
    also has its "density". split: name of the data that was scored. Accuracy, in [0, 1], is drawn in percent. Raises
    TrainingError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    mflops = [level["flops"] / 1e6 for level in levels]
    factor, unit = (100, " %") if quality == ACCURACY else (1, "")
    values = [factor * level[quality] for level in levels]
    axis.plot(mflops, values, "o-", color="tab:blue", label="levels of one nested checkpoint")
    for level, x, y in zip(levels, mflops, values, strict=True):
        axis.annotate(
            f"{level['density']:.1%} of weights\n{y:.2f}{unit}",
            (x, y),
            (6, -18),
            textcoords="offset points",
            fontsize=8,
        )
    if dense[quality] is not None:
        x, y = dense["flops"] / 1e6, factor * dense[quality]
        axis.plot([x], [y], "s", color="black", label=f"dense, before any was dropped: {y:.2f}{unit}")
        axis.axhline(y, color="black", lw=0.8, ls="--")
    axis.set_xscale("log")
    axis.set_xlabel("MFLOP of one sample (nested layers)")
    axis.set_ylabel(f"{quality} on {split} data{',' + unit if unit else ''}")
    axis.set_title(title)
    axis.margins(x=0.12, y=0.15)
    axis.legend(loc="lower right", fontsize=8)
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise TrainingError(
            f"{path}: the picture cannot be written ({error.strerror or error}); make room on the disk and repeat the "
            "command: the finished training is kept"
        ) from None
    finally:
        pyplot.close(figure)
