"""Table: the rows that a command selects, and a failure that stays in its row."""

from __future__ import annotations

from pathlib import Path

import pytest

from nested_sparse.errors import BenchError, PatternError
from nested_sparse.serving.bench.kernels.row import Row
from nested_sparse.serving.bench.kernels.table import DENSITIES, INT8_PEERS, PEERS, TABLE, Settings, chosen, measured

SETTINGS = Settings(rounds=3, peers_folder=Path("peers"))


def names(specs):
    return [spec.name for spec in specs]


def test_the_table_is_whole():
    """Every row has a name of its own, a level of its file, and a reach, unless only its figure is asked for."""
    assert len(set(names(TABLE))) == len(TABLE)
    assert all(spec.density in spec.levels for spec in TABLE)
    stated = {(spec.pattern, spec.values) for spec in TABLE if spec.reach is None}
    assert stated == {(each, "int8") for each in ("block8x1", "block16x1", "unstructured", "gs16x1", "channel")}
    reaches = {spec.name: str(spec.reach) for spec in TABLE}
    assert reaches["resnet50-block4x1-13.38-1t"] == "≥ 5"
    assert reaches["resnet50-block4x1-5.38-1t"] == "≥ 8"
    assert reaches["resnet50-block4x1-13.38-2t"] == "≥ 4.5"
    assert reaches["resnet50-unstructured-5.38-1t"] == "≥ 4"
    assert reaches["linear-block16x1-25-b32-1t"] == "≥ 2.5"
    assert reaches["linear-block16x1-f16-25-b1-1t"] == "> 1"
    assert reaches["resnet50-block4x1-int8-13.38-1t"] == "≥ 4"
    assert reaches["resnet50-block4x1-int8-5.38-1t"] == "≥ 6.5"
    assert reaches["resnet50-block4x1-int8-13.38-1t-vs-dense"] == "≥ 13"
    assert reaches["resnet50-block4x1-int8-5.38-2t"] == "≥ 5.5"
    assert reaches["resnet50-block4x1-int8-13.38-1t-avx2-vs-ours"] == "≥ 1"
    assert reaches["mobilenetv2-block4x1-int8-13.38-1t"] == "≥ 1.5"
    assert reaches["linear-block16x1-int8-25-b1-1t"] == "≥ 6"
    assert reaches["linear-block16x1-int8-25-b1-1t-vs-ours"] == "≥ 4"
    assert reaches["file-bytes-block4x1-int8-5.38-1t"] == reaches["resident-bytes-block4x1-int8-13.38-1t"] == "≤ 0.4"
    assert reaches["level0-block4x1-int8-5.38-1t"] == "≤ 1.05"
    assert reaches["level0-block4x1-5.38-1t"] == "≤ 1.03"


def test_rows_are_picked_by_pattern():
    assert chosen([], None, None) == list(TABLE)
    picked = chosen(["linear-gs*", "level0-*"], None, None)
    assert names(picked) == ["linear-gs16x1-25-b1-1t", "level0-block4x1-5.38-1t", "level0-block4x1-int8-5.38-1t"]
    with pytest.raises(BenchError, match=r"no row is called 'resnet51'.*resnet50-block4x1"):
        chosen(["resnet51"], None, None)


def test_threads_move_rows_and_their_reach_stays_behind():
    """At two threads the rows of two keep their reach; those of one are measured without; none comes twice."""
    picked = chosen([], None, 2)
    assert {spec.threads for spec in picked} == {2}
    assert len(set(names(picked))) == len(picked)
    reaches = {spec.name: spec.reach for spec in picked}
    assert reaches["resnet50-block4x1-5.38-2t"].bound == 7.0
    assert reaches["linear-block16x1-25-b1-2t"] is None


def test_levels_of_ones_own_take_the_tables_place():
    picked = chosen([], ("block8x1", (0.1, 0.2, 0.4), "float32"), None)
    assert names(picked) == [f"resnet50-block8x1-{percent}-1t" for percent in (40, 20, 10)]
    assert [spec.level for spec in picked] == [2, 1, 0]
    same = chosen([], ("unstructured", DENSITIES, "float32"), None)
    assert [str(spec.reach) for spec in same] == ["≥ 2.5", "≥ 4"]
    int8 = chosen([], ("block4x1", DENSITIES, "int8"), None)
    assert [(spec.against, str(spec.reach)) for spec in int8] == [("dense-int8", "≥ 4"), ("dense-int8", "≥ 6.5")]


def test_layers_add_the_rate_at_every_level():
    rates = [spec for spec in chosen([], None, None, layers=True) if spec.kind == "conv-rate"]
    assert [spec.density for spec in rates] == [0.1338, 0.0538]


def test_peers_are_added_or_picked():
    """Each at each level, of the pattern asked for."""
    every = [*PEERS, *INT8_PEERS]
    added = chosen(["level0-block4x1-5*"], None, None, peers=True)
    assert [spec.peer for spec in added[1:]] == [peer for peer in every for _ in DENSITIES]
    assert all(spec.values == ("int8" if "int8" in spec.peer else "float32") for spec in added)
    assert [str(spec.reach) for spec in added if spec.peer == "deepsparse-int8"] == ["≥ 2", "≥ 2"]
    assert names(chosen(["peer-mnn-u*"], ("unstructured", (0.3,), "float32"), 2)) == ["peer-mnn-unstructured-30-2t"]
    picked = chosen(["peer-*"], None, None, peers=True)
    assert len(set(names(picked))) == len(picked) == len(every) * len(DENSITIES)


def test_rows_of_one_setting_are_measured_together_in_the_asked_order():
    groups = []

    def measure(group, settings):
        assert settings is SETTINGS
        groups.append(names(group))
        return [Row(spec, measured=float(len(groups))) for spec in reversed(group)]

    picked = chosen(["resnet50-block4x1-[15]*"], None, None)
    rows = list(measured(picked, SETTINGS, measure))
    assert [row.spec for row in rows] == picked
    assert groups == [
        ["resnet50-block4x1-13.38-1t", "resnet50-block4x1-5.38-1t"],
        ["resnet50-block4x1-13.38-2t", "resnet50-block4x1-5.38-2t"],
        ["resnet50-block4x1-13.38-1t-avx2", "resnet50-block4x1-5.38-1t-avx2"],
    ]


def test_a_row_that_cannot_be_measured_says_why_and_the_others_go_on():
    def measure(group, settings):
        if group[0].pattern == "gs16x1":
            raise PatternError("pattern 'gs16x1' is not known")
        return [Row(spec, measured=1.0) for spec in group]

    rows = {row.spec.pattern: row for row in measured(chosen(["linear-*-b1-*"], None, None), SETTINGS, measure)}
    assert rows["gs16x1"].unavailable == "pattern 'gs16x1' is not known"
    assert rows["gs16x1"].measured is None
    assert rows["unstructured"].measured == 1.0
