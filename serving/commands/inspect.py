"""`nested-sparse inspect`: verify a checkpoint, and show its content."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nested_sparse.excerpt import excerpt
from nested_sparse.network import count_text

from .command import PATH, argument
from .output import print_json, print_line, print_table

if TYPE_CHECKING:
    from nested_sparse.checkpoint import Checkpoint
    from nested_sparse.network import Network

ROWS_TEXTS = {
    "independent": "independent: requests may run together as one batch",
    "dependent": "dependent on one another: each request runs alone",
    None: "not checked: an answer may depend on the other requests of the batch",
}


@argument("file", type=PATH, help="The checkpoint.")
@click.option("--json", is_flag=True, help="One JSON object instead of tables.")
def inspect(file: Path, json: bool) -> None:
    """Show the levels and layers of a checkpoint, after verifying nesting, indices, digests and the graph.

    Density is kept / all weights of the whole network. FLOPs are those of one sample of the example shape. In older
    files, both count the nested layers alone. The bytes of a level are the file's bytes up to the end of that level:
    `slice` to that level gives a file of about that size. The metric "disagreement" is the share of answers that differ
    from those of the densest level that was trained. Of a file with int8 layers, it shows the layers that kept
    float32, each layer's signal over the error of int8 in decibels where export measured it (that of the worst level),
    and where images change between float32 and bytes, which takes time at each run.

    Example: `nested-sparse inspect model.safetensors`
    """
    from nested_sparse.checkpoint import Checkpoint
    from nested_sparse.graph.check import check_graph
    from nested_sparse.graph.conversions import conversions

    with Checkpoint.open(file, verify=True) as checkpoint:
        graph = checkpoint.graph()
        check_graph(checkpoint, graph)
        facts = {**describe(checkpoint), "conversions": [asdict(each) for each in conversions(graph)]}
    if json:
        print_json(facts)
    else:
        _print(facts)


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """The facts in a checkpoint's metadata, ready for JSON.

    nnz: kept weights of a level; blocks: those that a level adds; sqnr_db: as in LayerEntry.
    """
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
                "sqnr_db": list(layer.sqnr_db),
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
        "state": dict(checkpoint.state),
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
    _print_sizes(facts["inputs"])
    if facts["state"]:
        print(f"state {', '.join(f'{output} -> {taken}' for output, taken in facts['state'].items())}")
    _print_int8(facts["layers"], facts["conversions"])
    _print_network(facts["network"])
    if facts["reroutes"]:
        _print_reroutes(facts["reroutes"], [entry["name"] for entry in facts["layers"]])


def _print_sizes(inputs: list[dict[str, Any]]) -> None:
    """Print the sizes that a run may choose, each with its range and the dimensions that have it."""
    from nested_sparse.free_size import FreeSize

    places: dict[str, list[str]] = {}
    ranges: dict[str, FreeSize] = {}
    for spec in inputs:
        for axis, each in enumerate(spec["free"]):
            if each is not None:
                ranges[each["name"]] = FreeSize(**each)
                places.setdefault(each["name"], []).append(f"{excerpt(spec['name'])}[{axis}]")
    if ranges:
        print_table(
            "sizes that a run may choose",
            ("size", "range", "dimensions"),
            [(name, free.range_text, ", ".join(places[name])) for name, free in ranges.items()],
        )


def _print_int8(layers: list[dict[str, Any]], conversions: list[dict[str, Any]]) -> None:
    """Print the layers of an int8 file that kept float values, and where images change between float32 and bytes."""
    from nested_sparse.value_type import value_type_of_bytes

    kept = [entry for entry in layers if not value_type_of_bytes(entry["value_bytes"]).scaled]
    if len(kept) < len(layers):
        names = ", ".join(f"{excerpt(entry['name'])}{_why_float(entry)}" for entry in kept)
        print_line(f"{len(kept)} of {len(layers)} layers kept float values{names and ': '}{names}")
    if conversions:
        print_table(
            f"conversions of images in each run: {len(conversions)}",
            ("conversion", "of", "read by"),
            [
                ("float32 to u8" if each["to_u8"] else "u8 to float32", each["source"], ", ".join(each["readers"]))
                for each in conversions
            ],
        )


def _why_float(entry: dict[str, Any]) -> str:
    """Why a layer of an int8 file has float values, in brackets; "" where it was asked for, or has too many columns."""
    from nested_sparse.graph.contract import LAYER_KINDS

    if LAYER_KINDS[entry["op"]].quantized is None:
        return f" ({entry['op']} has no int8 operator)"
    return _error_text(entry, " ({})")


def _error_text(entry: dict[str, Any], text: str) -> str:
    """The signal over the error of int8 at the worst level, put into `text`; "" where it was not measured."""
    return text.format(f"{min(entry['sqnr_db']):.1f} dB") if entry["sqnr_db"] else ""


def _print_network(network: dict[str, Any] | None) -> None:
    """Print the sparse share of the network, and the modules that are dense."""
    if network is None:
        print_line("an older file: density and FLOPs are of its nested layers alone, not of the whole network")
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


def _print_reroutes(reroutes: list[dict[str, Any]], layers: list[str]) -> None:
    """Print, for each pair of levels, the number of layers at which a run may be lowered, and the least accuracy."""
    rows = []
    for reroute in reroutes:
        accuracy = reroute["accuracy"]
        worst = min(accuracy, key=accuracy.__getitem__)
        rest = f"{accuracy[layers[0]]:.4g}" if layers[0] in accuracy else "-"
        count = f"{len(accuracy.keys() | layers[:1])} of {len(layers)}"
        rows.append((reroute["start"], reroute["end"], count, rest, accuracy[worst], worst))
    print_table(
        "layers at which a running inference may be lowered; its accuracy on the samples that measured it",
        ("from level", "to", "layers", "whole run", "least", "at"),
        rows,
    )


def _metrics(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()) or "-"


def _pattern_text(entry: dict[str, Any]) -> str:
    from nested_sparse.value_type import FLOAT32, value_type_of_bytes

    permuted = ", permuted" if entry["permuted"] else ""
    stored = value_type_of_bytes(entry["value_bytes"])
    values = "" if stored is FLOAT32 else f", {stored.name}{_error_text(entry, ' {}')}"
    return f"{entry['pattern']}{permuted}{values}"


def _shape_text(entry: dict[str, Any]) -> str:
    kernel = entry["attributes"].get("kernel_shape")
    if not kernel:
        return f"{entry['rows']} × {entry['columns']}"
    return " × ".join(map(str, [entry["rows"], entry["columns"] // max(math.prod(kernel), 1), *kernel]))
