"""Monitoring: the Grafana dashboard and the alert rules ask for metrics and labels that the server exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nested_sparse.errors import OverloadedError
from nested_sparse.runtime.resources import Governor, ResourceMonitor
from nested_sparse.runtime.scheduling.request import Response
from nested_sparse.runtime.session import Lowering
from nested_sparse.serving.fault import FAULTS, INTERNAL
from nested_sparse.serving.fetching.fetch_counts import FetchCounts
from nested_sparse.serving.fetching.fetch_metrics import FetchMetrics
from nested_sparse.serving.server import ServerConfig

FOLDER = Path(__file__).parents[3] / "docs" / "monitoring"
READINGS = (
    "available_memory_bytes", "battery_percent", "cpu_stall_us", "frequency_mhz", "temperature_celsius", "usable_cores",
    "steal_us", "throttled_us", "memory_stall_us", "io_stall_us",
)  # fmt: skip
FROM_PROMETHEUS = {"up", "instance", "job", "le"}
NAME = re.compile(r"\b((?:nested_sparse|nv_inference)_\w+)(?:\{([^}]*)\})?")


@pytest.fixture
def exported(model: Any, serve: Any) -> dict[str, set[str]]:
    """The labels of each sample's name, as a server exports them that has answered late, lowered, and refused."""
    time_s = [1.0]
    governor = Governor(
        ResourceMonitor((lambda: dict.fromkeys(READINGS, time_s[0]),), clock=lambda: time_s[0], min_interval_s=0.0)
    )
    governor.watch(
        SimpleNamespace(name="net", levels=model.levels, resident_level=2, threads=1),
        SimpleNamespace(limit=lambda level, reason: None),
        follows_cores=False,
    )
    for _ in range(2):
        time_s[0] += 1.0
        governor.look()
    model = replace(model, resident_bytes=lambda: 7)
    with serve([model], ServerConfig(port=0, grace_s=5), governor=governor) as server:
        counts = FetchCounts(published_serial=2, published_levels=4, served_serial=1, served_levels=4, looked_s=1.0)
        server.export(FetchMetrics({"net": SimpleNamespace(nbytes=7, counts=counts)}))  # type: ignore[dict-item]
        metrics = server._metrics
        lowering = Lowering(2, "conv", 2, None)
        with metrics.request(model, -5.0) as record:
            record.response = Response({}, model.levels[1], 1, 1, "", 40.0, lowering=lowering)
        with pytest.raises(OverloadedError), metrics.request(model, 0.0):
            raise OverloadedError("full", None)
        names: dict[str, set[str]] = defaultdict(set)
        for family in metrics.registry.collect():
            for sample in family.samples:
                names[sample.name] |= set(sample.labels)
        return names


def expressions() -> list[str]:
    panels = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
    found = re.findall(r"expr: (?:\|\n((?: {10}.*\n)+)|(.+)\n)", rules)
    assert len(found) == rules.count("- alert: ")
    return asked + [block or line for block, line in found]


def test_every_metric_and_label_is_exported(exported):
    for expression in expressions():
        found = NAME.findall(expression)
        groups = re.findall(r"(?:by|on|ignoring) \(([\w, ]+)\)", expression)
        grouped = {name for group in groups for name in group.split(", ")}
        known = FROM_PROMETHEUS.union(*(exported[name] for name, _ in found if name in exported))
        assert grouped <= known, expression
        for name, selector in found:
            assert name in exported, f"{name} in {expression}"
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
            assert asked <= exported[name] | FROM_PROMETHEUS, f"{name} has no {asked} in {expression}"


def test_every_outcome_that_is_asked_for_exists():
    known = {"ok", "late", INTERNAL.outcome, *(fault.outcome for fault in FAULTS.values())}
    for expression in expressions():
        for outcomes in re.findall(r'outcome[=!]~?"([^"]+)"', expression):
            assert set(outcomes.split("|")) <= known, expression


def test_the_dashboard_is_whole():
    board = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 15
    cells = [
        (panel["gridPos"]["x"] + dx, panel["gridPos"]["y"] + dy)
        for panel in panels
        for dx in range(panel["gridPos"]["w"])
        for dy in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)  # none covers another
    assert max(x for x, _ in cells) == 23
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "instance", "model"}


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool on this machine (Debian: the package prometheus)"
)
def test_each_alert_fires_where_it_should(tmp_path):
    """By Prometheus' own tool: for a server in trouble, and not for a calm one."""
    for file in (FOLDER / "alerts.yml", Path(__file__).with_name("alerts_test.yml")):
        shutil.copy(file, tmp_path)
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"], cwd=tmp_path, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
