"""`nested-sparse inspect`: what a checkpoint holds, after verifying it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nested_sparse.excerpt import excerpt
from nested_sparse.network import count_text
from nested_sparse.value_type import FLOAT32, value_type_of_bytes

from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from nested_sparse.checkpoint import Checkpoint
    from nested_sparse.network import Network

ROWS_TEXTS = {
    "independent": "independent: requests may run together as one batch",
    "dependent": "dependent on one another: each request runs alone",
    None: "not looked at: may differ with what else is in the batch",
}


def inspect(
    file: Annotated[Path, typer.Argument(help="The checkpoint.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
) -> None:
    """Show the levels and layers of a checkpoint, after verifying nesting, indices, digests and what the graph may do.

    Density is kept / all weights of the whole network, FLOPs are all of one sample of the example shape; of older files
    they count the nested layers alone. Bytes of a level are what the file holds up to its end: `slice` to that level
    gives a file of about that size.

    Example: `nested-sparse inspect model.safetensors`
    """
    from nested_sparse.checkpoint import Checkpoint
    from nested_sparse.graph.check import check_graph

    with Checkpoint.open(file, verify=True) as checkpoint:
        check_graph(checkpoint, checkpoint.graph())
        facts = describe(checkpoint)
    if json:
        print_json(facts)
    else:
        _print(facts)


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """All that `inspect` shows, ready for JSON. nnz are the kept weights at a level; blocks are what the level adds."""
    layers = checkpoint.layers
    return {
        "file": str(checkpoint.path),
        "nbytes": checkpoint.path.stat().st_size,
        "format_version": checkpoint.metadata.format_version,
        "producer": checkpoint.metadata.producer,
        "verified": ["nesting", "indices", "digests", "graph"],
        "inputs": [asdict(spec) for spec in checkpoint.inputs],
        "outputs": [asdict(spec) for spec in checkpoint.outputs],
        "levels": [
            {
                "level": level.index,
                "density": level.density,
                "nnz": sum(layer.nnz[level.index] for layer in layers),
                "flops": level.flops,
                "nbytes": level.nbytes,
                "metrics": dict(level.metrics),
            }
            for level in checkpoint.levels
        ],
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "pattern": layer.pattern,
                "permuted": layer.permuted,
                "value_bytes": layer.value_type.nbytes,
                "rows": layer.rows,
                "columns": layer.columns,
                "attributes": dict(layer.attributes),
                "blocks": list(layer.blocks),
                "nnz": list(layer.nnz),
            }
            for layer in layers
        ],
        "network": _network(checkpoint.metadata.network),
        "reroutes": [asdict(reroute) for reroute in checkpoint.reroutes],
        "rows": checkpoint.rows,
    }


def _network(network: Network | None) -> dict[str, Any] | None:
    return None if network is None else {**asdict(network), "sparse_share": network.sparse_share}


def _print(facts: dict[str, Any]) -> None:
    print_table(
        f"{facts['file']}: {facts['nbytes']:,} bytes; verified: {', '.join(facts['verified'])}",
        ("level", "density", "nnz", "FLOPs", "bytes", "metrics"),
        [
            (
                entry["level"],
                entry["density"],
                entry["nnz"],
                entry["flops"],
                entry["nbytes"],
                _metrics(entry["metrics"]),
            )
            for entry in facts["levels"]
        ],
    )
    level_count = len(facts["levels"])
    print_table(
        f"{len(facts['layers'])} layers; nnz kept at each level",
        ("layer", "op", "pattern", "shape", *(f"level {level}" for level in range(level_count))),
        [
            (entry["name"], entry["op"], _pattern_text(entry), _shape_text(entry), *entry["nnz"])
            for entry in facts["layers"]
        ],
    )
    print(f"rows {ROWS_TEXTS[facts['rows']]}")
    _print_network(facts["network"])
    if facts["reroutes"]:
        print_line(_reroutes_text(facts["reroutes"]))


def _print_network(network: dict[str, Any] | None) -> None:
    """How much of the network is sparse, and what is not."""
    if network is None:
        print_line("an older file: density and FLOPs are of its nested layers alone, whatever else it computes")
        return
    print_line(
        f"{network['sparse_share']:.1%} of the network's {count_text(network['flops'])}FLOP are in sparse layers"
    )
    if network["dense"]:
        print_table(
            "the same at every level",
            ("module", "FLOPs", "weights", "why"),
            [(module["name"], module["flops"], module["weights"], module["why"]) for module in network["dense"]],
        )


def _reroutes_text(reroutes: list[dict[str, Any]]) -> str:
    """How many reroutes were measured, and the one that scores least."""
    count = sum(len(reroute["accuracy"]) for reroute in reroutes)
    least, layer, start, end = min(
        (accuracy, layer, reroute["start"], reroute["end"])
        for reroute in reroutes
        for layer, accuracy in reroute["accuracy"].items()
    )
    return (
        f"{count} reroutes measured between {len(reroutes)} pairs of levels; "
        f"least accuracy {least:.4g}, from level {start} to {end} at {excerpt(layer)}"
    )


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()) or "-"


def _pattern_text(entry: dict[str, Any]) -> str:
    permuted = ", permuted" if entry["permuted"] else ""
    stored = value_type_of_bytes(entry["value_bytes"])
    return f"{entry['pattern']}{permuted}{'' if stored is FLOAT32 else f', {stored.name}'}"


def _shape_text(entry: dict[str, Any]) -> str:
    kernel = entry["attributes"].get("kernel_shape")
    if not kernel:
        return f"{entry['rows']} × {entry['columns']}"
    height, width = kernel
    return f"{entry['rows']} × {entry['columns'] // (height * width)} × {height} × {width}"
