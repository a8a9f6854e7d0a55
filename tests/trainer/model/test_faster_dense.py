"""Faster dense: layers that costs make dense, by both rules, and networks that do not profit at all."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from device_costs import FIXED_MS, OTHER_MS, imagined_costs
from torch import nn

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.device_costs import DeviceCosts
from nested_sparse.errors import BudgetError, InputError
from nested_sparse.graph.nodes import graph_nodes
from nested_sparse.runtime.session import Session
from nested_sparse.trainer import NestedModel, export, nest, nest_pretrained, predicted_latency

DENSITIES = (0.25, 0.5)


def plain_net() -> nn.Sequential:
    """Linear layers of 8 × 8 and a convolution in groups of one channel, each with what stands around it."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.Unflatten(1, (8, 1, 1)),
        nn.Conv2d(8, 8, 1, groups=8),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8, 8),
    )


def costs_with(dense_ms: Mapping[str, float], network_ms: float | None = None) -> DeviceCosts:
    """Costs of `plain_net`: each sparse layer takes FIXED_MS and 0.01 ms per weight, "4" 0.7 ms whole."""
    costs = imagined_costs(nest(plain_net(), densities=DENSITIES), 0.01)
    layers = {name: dataclasses.replace(layer, dense_ms=dense_ms.get(name)) for name, layer in costs.layers.items()}
    layers["4"] = dataclasses.replace(layers["4"], patterns={}, whole_ms=0.7)
    return dataclasses.replace(costs, layers=layers, dense_ms=network_ms)


def by_rule(rule: str, costs: DeviceCosts, **options: object) -> NestedModel:
    """`plain_net` nested by `costs`."""
    arguments: dict[str, object] = {"densities": DENSITIES, "costs": costs, "dense_where": rule, **options}
    return nest(plain_net(), **arguments)  # type: ignore[arg-type]


# at the levels of 16 and 32 of 64 weights a layer takes 0.66 and 0.82 ms, 1.48 together
@pytest.mark.parametrize(
    ("rule", "dense_ms", "dense"),
    [
        ("ever_slower", 0.81, True),
        ("ever_slower", 0.83, False),
        ("slower", 0.81, False),
        ("slower", 0.75, False),
        ("slower", 0.73, True),
    ],
)
def test_a_layer_is_dense_by_the_rule(rule: str, dense_ms: float, dense: bool) -> None:
    """It stays torch's layer with its values; `dense_layers` and `summary` say why, with both times."""
    net = by_rule(rule, costs_with({"0": dense_ms, "2": 5.0, "7": 5.0}))
    assert ("0" not in net.nested_layers()) == dense
    assert {"2", "7", "4"} <= net.nested_layers().keys()
    if dense:
        kept = net.model.get_submodule("0")
        assert type(kept) is nn.Linear
        assert torch.equal(kept.weight, plain_net()[0].weight)
        said = f"dense by measurement: {1e3 * dense_ms:.3g} µs in ONNX Runtime, 660 µs to 820 µs sparse in our operator"
        assert net.dense_layers()["0"] == said
        assert f"dense: 0: {said}" in net.summary()


def test_costs_of_several_batches_count_together() -> None:
    """ "ever_slower" asks whether a layer is slower at any batch, "slower" what a sample loses at all of them."""
    one = costs_with({"0": 0.9, "2": 0.9, "7": 0.9})
    eight = dataclasses.replace(costs_with({"0": 0.81, "2": 0.9, "7": 0.1}), batch=8)
    assert by_rule("ever_slower", one).dense_layers() == {}
    net = by_rule("ever_slower", [one, eight])  # type: ignore[arg-type]
    assert net.dense_layers() == {
        "0": "dense by measurement: 810 µs in ONNX Runtime, 660 µs to 820 µs sparse in our operator at batch 8",
        "7": "dense by measurement: 100 µs in ONNX Runtime, 660 µs to 820 µs sparse in our operator at batch 8",
    }
    # "7" gains 0.32 ms a sample at batch 1 and loses 1.28 / 8 at batch 8
    assert by_rule("slower", [one, eight]).dense_layers() == {}  # type: ignore[arg-type]
    alike = dataclasses.replace(eight, batch=2)
    assert by_rule("slower", (one, alike)).dense_layers().keys() == {"7"}  # type: ignore[arg-type]


def test_a_layer_that_is_whole_is_left_to_the_faster_side() -> None:
    """A depthwise one, and one of keep_dense."""
    slow, fast = costs_with({"4": 0.8, "2": 9.0}), costs_with({"4": 0.6, "2": 9.0})
    assert "4" in by_rule("slower", slow).nested_layers()
    net = by_rule("slower", fast)
    assert net.dense_layers() == {"4": "dense by measurement: 600 µs in ONNX Runtime, 700 µs in our operator"}
    kept = costs_with({"0": 1.1})  # all 64 weights take 1.14 ms
    assert "0" in by_rule("ever_slower", kept).nested_layers()
    assert "0" not in by_rule("ever_slower", kept, keep_dense=("0",)).nested_layers()


def test_layers_that_share_a_weight_are_dense_together() -> None:
    """One mask serves both."""
    model = plain_net()
    model[2].weight = model[0].weight
    net = nest(model, densities=DENSITIES, costs=costs_with({"0": 0.1, "7": 9.0}), dense_where="slower")
    assert {"0", "2"} <= net.dense_layers().keys()
    assert net.dense_layers()["2"] == "shares its weight with '0'"


class Spoken(nn.Module):
    """An LSTM of two layers, a GRU, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, num_layers=2, batch_first=True)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.head = nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.gru(self.lstm(x)[0])[0]))


def spoken_costs(lstm_ms: float | None, gru_ms: float | None) -> DeviceCosts:
    """Costs of Spoken, of which each layer inside the LSTM and the GRU has a time as dense."""
    costs = imagined_costs(nest(Spoken(), densities=DENSITIES), 0.01)
    dense_ms = {"lstm": lstm_ms, "gru": gru_ms, "head": 9.0}
    layers = {
        name: dataclasses.replace(layer, dense_ms=dense_ms[name.partition(".")[0]])
        for name, layer in costs.layers.items()
    }
    return dataclasses.replace(costs, layers=layers)


# at the levels of 16 and 32 of 64 weights each of the LSTM's four layers takes 0.66 and 0.82 ms
@pytest.mark.parametrize(("lstm_ms", "dense"), [(0.81, True), (0.83, False), (None, False)])
def test_a_recurrent_module_is_dense_as_a_whole(lstm_ms: float | None, dense: bool, tmp_path: Path) -> None:
    """All of its layers together decide; it stays torch's module, and ONNX Runtime runs it, next to a sparse GRU."""
    torch.manual_seed(0)
    model = Spoken().eval()
    net = nest(model, densities=DENSITIES, costs=spoken_costs(lstm_ms, 9.0), dense_where="ever_slower")
    assert {"gru.ih_l0", "gru.hh_l0", "head"} <= net.nested_layers().keys()
    assert ("lstm.hh_l1" in net.nested_layers()) == (not dense)
    if not dense:
        assert net.dense_layers() == {}
        return
    kept = net.model.get_submodule("lstm")
    assert type(kept) is nn.LSTM
    assert torch.equal(kept.weight_hh_l1, model.lstm.weight_hh_l1)
    assert net.dense_layers() == {
        "lstm": "dense by measurement: 3.24 ms in ONNX Runtime, 2.64 ms to 3.28 ms sparse in our operators"
    }
    x = torch.randn(2, 5, 4)
    path = export(net, (x,), tmp_path / "model.safetensors", tolerance=1e-5)
    with Checkpoint.open(path) as checkpoint:
        operators = [node.operator for node in graph_nodes(checkpoint.graph())]
        assert (operators.count("LSTM"), operators.count("NestedGRU"), operators.count("NestedLSTM")) == (2, 1, 0)
        assert checkpoint.metadata.network is not None
        assert {each.name for each in checkpoint.metadata.network.dense} == {"lstm"}


def test_layers_inside_a_module_that_is_dense_may_be_named(tmp_path: Path) -> None:
    """A pattern of keep_dense that matched before the module was measured is no error; a wrong one is."""
    costs = spoken_costs(0.1, 9.0)
    net = nest(Spoken(), densities=DENSITIES, costs=costs, dense_where="slower", keep_dense=("lstm.hh_l0",))
    assert net.dense_layers().keys() == {"lstm"}
    with pytest.raises(BudgetError, match=r"keep_dense: no layer matches 'lstm.hh_l9'"):
        nest(Spoken(), densities=DENSITIES, costs=costs, dense_where="slower", keep_dense=("lstm.hh_l9",))


def test_a_network_that_is_one_recurrent_module() -> None:
    """Every layer is faster dense then, which is said."""
    costs = imagined_costs(nest(nn.GRU(4, 4), densities=DENSITIES), 0.01)
    layers = {name: dataclasses.replace(layer, dense_ms=0.1) for name, layer in costs.layers.items()}
    with pytest.raises(BudgetError, match="on imagined every layer is faster dense"):
        nest(
            nn.GRU(4, 4),
            densities=DENSITIES,
            costs=dataclasses.replace(costs, layers=layers),
            dense_where="slower",
        )


def test_the_file_computes_as_torch_with_layers_of_both_kinds(tmp_path: Path) -> None:
    """At each level; the file says which layers are dense by measurement."""
    net = by_rule("slower", costs_with({"0": 0.1, "2": 9.0, "4": 0.1, "7": 9.0})).eval()
    x = torch.randn(3, 8)
    path = export(net, (x,), tmp_path / "model.safetensors")
    with Checkpoint.open(path) as checkpoint:
        assert [layer.name for layer in checkpoint.layers] == ["2", "7"]
        network = checkpoint.metadata.network
        assert network is not None
        assert {module.name for module in network.dense if "by measurement" in module.why} == {"0", "4"}
    with Session(path, threads=1) as session:
        for level in range(len(DENSITIES)):
            net.set_level(level)
            np.testing.assert_allclose(
                session.run({"input": x.numpy()}, level)["output"], net(x).detach().numpy(), rtol=1e-4, atol=1e-5
            )


def test_other_ways_to_nest_take_the_rule() -> None:
    """Times as levels, whose prediction has the dense layers, and levels without training."""
    costs = costs_with({"0": 0.1, "2": 9.0, "7": 9.0})
    net = nest(
        plain_net(),
        latency_ms=(2.7, 3.0),
        budget_by="latency",
        costs=costs,
        dense_where="slower",
    )
    assert "0" in net.dense_layers()
    assert predicted_latency(net, costs) == pytest.approx([2.7, 3.0], abs=0.02)
    batches = [torch.randn(16, 8)]
    post = nest_pretrained(plain_net(), batches, densities=DENSITIES, costs=costs, dense_where="slower", samples=16)
    assert "0" in post.dense_layers()


def test_slow_levels_are_named_with_figures(caplog: pytest.LogCaptureFixture) -> None:
    """Beside the time of the plain network; nothing is said of levels that are faster."""
    dense_ms = {"0": 0.1, "2": 9.0, "7": 9.0}
    levels_ms = [OTHER_MS + 0.1 + 0.7 + 2 * (FIXED_MS + 0.01 * kept) for kept in (16, 32)]
    for network_ms, advice in ((2.5, "leave these levels out"), (1.0, "serve the plain model"), (9.0, "")):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "nested_sparse"):
            by_rule("slower", costs_with(dense_ms, network_ms))
        said = [each.getMessage() for each in caplog.records if "plain network" in each.getMessage()]
        slow = [f"level {level}: {ms:.3g} ms" for level, ms in enumerate(levels_ms) if ms > network_ms]
        expected = f"the plain network takes {network_ms:.3g} ms in ONNX Runtime, and longer than that: "
        assert [each.partition(" the ")[2] for each in said] == (
            [f"{expected.removeprefix('the ')}{', '.join(slow)}; {advice}"] if slow else []
        )


def at_eight(costs: DeviceCosts, **changes: object) -> DeviceCosts:
    """The costs as if measured at batch 8."""
    return dataclasses.replace(costs, batch=8, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "got"),
    [
        ("device", "Toaster", "'imagined' in {one} and 'Toaster'"),
        ("isa", "neon", "'none' in {one} and 'neon'"),
        ("int8_isa", "vnni", "'' in {one} and 'vnni'"),
        ("threads", 64, "1 in {one} and 64"),
        ("values", "int8", "'float32' in {one} and 'int8'"),
    ],
)
def test_costs_of_several_batches_are_of_one_device(name: str, value: object, got: str, tmp_path: Path) -> None:
    """Others are refused, and both files named."""
    costs = costs_with({"0": 9.0})
    one, eight = tmp_path / "one.json", tmp_path / "eight.json"
    one.write_text(costs.to_json())
    eight.write_text(at_eight(costs, **{name: value}).to_json())
    with pytest.raises(BudgetError) as raised:
        by_rule("slower", [one, str(eight)])  # type: ignore[arg-type]
    assert f"got {name} {got.format(one=one)} in {eight}; measure both alike" in str(raised.value)


def test_the_faulty_ones_of_several_costs_are_named(tmp_path: Path) -> None:
    """By file or by place: of another network, without times, of the same batch, or no costs at all."""
    costs = costs_with({"0": 9.0})
    one, eight = tmp_path / "one.json", tmp_path / "eight.json"
    one.write_text(costs.to_json())
    renamed = at_eight(costs, layers={f"x.{name}": layer for name, layer in costs.layers.items()})
    eight.write_text(renamed.to_json())
    refused: list[tuple[object, str]] = [
        ([one, eight], f"{eight}: there are none of layer"),
        ([one, renamed], "costs[1]: there are none of layer"),
        (eight, f"{eight}: there are none of layer"),
        ([one, str(one)], f"expected one for each batch, got two of batch 1, {one} and {one}; leave one out"),
        ([one, {}], "costs[1]: format: expected a text"),
    ]
    for given, said in refused:
        with pytest.raises(BudgetError) as raised:
            by_rule("slower", given)  # type: ignore[arg-type]
        assert said in str(raised.value)
    for given, said in (({one}, "costs: "), ([[one]], "costs[0]: "), (5, "costs: "), ([None], "costs[0]: ")):
        with pytest.raises(InputError) as of_input:
            by_rule("slower", given)  # type: ignore[arg-type]
        assert f"{said}expected the path of a file, its content as a dict, or DeviceCosts" in str(of_input.value)
        assert "for several batches one list of these" in str(of_input.value)


def test_predicted_latency_takes_a_list_of_one() -> None:
    """As nest does; times of several batches are not one prediction."""
    costs = costs_with({"0": 9.0})
    net = nest(plain_net(), densities=DENSITIES)
    assert predicted_latency(net, [costs]) == predicted_latency(net, costs)
    with pytest.raises(BudgetError, match=r"expected those of one batch with predicted_latency, .* got 2"):
        predicted_latency(net, [costs, at_eight(costs)])


def test_wrong_arguments_are_named() -> None:
    """Rules and costs that are none, and a network of which every layer is faster dense."""
    costs = costs_with({"0": 1.0})
    for rule in ("never", 3, ["slower"]):
        with pytest.raises(BudgetError, match="dense_where: expected one of 'slower', 'ever_slower' or None, got"):
            by_rule(rule, costs)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match="dense_where='slower' needs costs"):
        nest(plain_net(), densities=DENSITIES, dense_where="slower")
    with pytest.raises(BudgetError, match="costs: no layer has dense_ms; measure again"):
        by_rule("slower", costs_with({}))
    with pytest.raises(BudgetError, match=r"dense_where='slower' needs costs: .* got an empty list"):
        nest(plain_net(), densities=DENSITIES, dense_where="slower", costs=[])
    with pytest.raises(BudgetError, match=r"expected those of one batch with budget_by=.latency., .* got 2"):
        nest(plain_net(), latency_ms=(2.7, 3.0), budget_by="latency", costs=[costs, at_eight(costs)])
    with pytest.raises(BudgetError, match=r"costs\[1\]: no layer has dense_ms"):
        nest(plain_net(), densities=DENSITIES, dense_where="slower", costs=[costs, at_eight(costs_with({}))])
    every = costs_with(dict.fromkeys(("0", "2", "4", "7"), 0.1), 0.012)
    with pytest.raises(BudgetError, match=r"on imagined every layer is faster dense.* takes 12 µs there; serve"):
        by_rule("slower", every)
    both = [every, dataclasses.replace(every, batch=8)]
    with pytest.raises(BudgetError, match="takes 12 µs, 12 µs at batch 8 there"):
        nest(plain_net(), densities=DENSITIES, costs=both, dense_where="slower")
