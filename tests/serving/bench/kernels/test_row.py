"""Rows: the figures computed from samples, and the JSON line."""

from __future__ import annotations

import json

from nested_sparse.serving.bench.kernels.row import Row, Spec, speedup
from nested_sparse.serving.bench.reach import Reach

SPEC = Spec("resnet50", "block4x1", 0.1338, 2, (0.0538, 0.1338), reach=Reach(">=", 4.5))


def row(spec=SPEC, **facts):
    given = {"measured": 5.0, "ours_ms": [2.0, 1.0, 9.0], "reference_ms": [10.0, 11.0, 4.0], **facts}
    return Row(spec, against="dense", kernel="k", isa="avx2", versions={"numpy": "2"}, **given)


def test_speedup_is_of_medians():
    """One slow sample on either side changes nothing."""
    assert speedup(ours_ms=[2.0, 1.0, 900.0], reference_ms=[10.0, 700.0, 4.0]) == 5.0


def test_met_is_unknown_without_a_reach_or_a_measurement():
    plain = Spec("resnet50", "block4x1", 0.1338, 2, (0.0538, 0.1338))
    assert row(plain).met is None
    assert row(measured=None).met is None
    assert row().met is True


def test_names_tell_rows_apart():
    variants = [
        {},
        {"threads": 1},
        {"isa": "avx2"},
        {"pattern": "unstructured"},
        {"density": 0.0538},
        {"kind": "conv-rate"},
        {"kind": "linear"},
        {"kind": "linear", "batch": 32},
        {"kind": "linear", "values": "float16"},
        {"values": "int8"},
        {"values": "int8", "against": "dense-int8"},
        {"values": "int8", "against": "ours"},
        {"kind": "mobilenetv2"},
        {"kind": "file-bytes", "values": "int8", "against": "ours"},
        {"kind": "resident-bytes", "values": "int8", "against": "ours"},
        {"kind": "peer", "peer": "mnn"},
        {"kind": "peer", "peer": "openvino"},
        {"kind": "peer", "peer": "openvino-int8", "values": "int8"},
    ]
    base = {"kind": "resnet50", "pattern": "block4x1", "density": 0.1338, "threads": 2, "levels": (0.0538, 0.1338)}
    names = [Spec(**{**base, **variant}).name for variant in variants]
    assert len(set(names)) == len(names)
    assert names[0] == "resnet50-block4x1-13.38-2t"
    assert all(" " not in name for name in names)


def test_json_has_all_and_comes_back():
    """Another process's row, printed and read, is the same row; every sample is in it."""
    line = json.loads(json.dumps(row(note="n", other_load=0.5, layers=[{"layer": "a"}]).to_json(), allow_nan=False))
    for key in ("name", "reach", "measured", "met", "samples_ms", "kernel", "isa", "threads", "versions"):
        assert key in line
    assert line["samples_ms"] == {"ours": [2.0, 1.0, 9.0], "reference": [10.0, 11.0, 4.0]}
    assert line["median_ms"] == {"ours": 2.0, "reference": 10.0}
    assert line["best_ms"] == {"ours": 1.0, "reference": 4.0}
    assert (line["reach"], line["met"], line["threads"]) == ("≥ 4.5", True, 2)
    assert Row.from_json(SPEC, line) == row(note="n", other_load=0.5, layers=[{"layer": "a"}])


def test_bytes_come_back_too():
    line = json.loads(json.dumps(row(ours_ms=[], reference_ms=[], ours_bytes=3, reference_bytes=9).to_json()))
    assert (line["ours_bytes"], line["reference_bytes"], line["median_ms"]) == (3, 9, {})
    assert Row.from_json(SPEC, line).ours_bytes == 3


def test_an_unavailable_row_is_json_too():
    line = json.loads(json.dumps(Row(SPEC, unavailable="no such pattern").to_json(), allow_nan=False))
    assert (line["measured"], line["met"], line["unavailable"]) == (None, None, "no such pattern")
    assert line["median_ms"] == {}
