"""`nested-sparse bench front`: the cost of a call beside the model's run."""

from __future__ import annotations

import click

from nested_sparse.errors import NestedSparseError

from .output import print_json, print_line, print_table

ROUNDS, QUICK_ROUNDS = 2000, 300
SECONDS, QUICK_SECONDS = 2.0, 0.5


@click.option("--quick", is_flag=True, help="Fewer calls: about 15 s in place of 45.")
@click.option("as_json", "--json", is_flag=True, help="Only the JSON line.")
def front(quick: bool, as_json: bool) -> None:
    """Calls of a trivial model against calls of a bare grpc.aio server, in turns, with equal bytes both ways.

    One client calls both servers by turns, with 4 kB, with 602 kB, and with 602 kB in shared memory beside a bare call
    with 4 kB. The time of Session.run is taken off ours; it takes turns with the calls, in the client's process. Then
    one client process keeps a call under way on each of 16 connections, of one server after the other. The bare server
    reads nothing, and answers as many bytes as ours. Every answer of ours is compared with the output of the level that
    it names. Needs the [train] extra.

    Example: `nested-sparse bench front --quick`
    """
    try:
        import torch  # noqa: F401 - the models are made with it
    except ModuleNotFoundError:
        raise NestedSparseError(
            "this benchmark makes its models with torch: pip install 'nested-sparse[train]'"
        ) from None
    from ..bench.front.run import FrontOptions, measure_front
    from ..bench.machine import machine_facts
    from ..bench.neighbours import TOLERABLE_LOAD, Neighbours, read_family_cpu_seconds
    from ..bench.reach import MET

    neighbours = Neighbours(read_family_cpu_seconds)
    figures = measure_front(FrontOptions(QUICK_ROUNDS, QUICK_SECONDS) if quick else FrontOptions(ROUNDS, SECONDS))
    other_load = neighbours.cores()
    facts = machine_facts()
    if not as_json:
        print_table(
            f"Calls beside a bare grpc.aio server, on {facts['cpu']}",
            ("row", "reach", "measured", "met", "medians"),
            [
                (each.name, str(each.reach or ""), each.measured if each.measured is not None else "not measured",
                 MET[each.met], each.unavailable or each.note)
                for each in figures
            ],
        )  # fmt: skip
        if other_load > TOLERABLE_LOAD:
            print_line(f"Other processes kept {other_load:.1f} cores busy meanwhile: measure again on an idle machine.")
    print_json({"figures": [each.to_json() for each in figures], "other_load": other_load, **facts})
