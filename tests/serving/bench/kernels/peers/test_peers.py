"""Peers: the protocol with a fake worker, and the line of the report for a peer that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from nested_sparse.errors import BenchError
from nested_sparse.serving.bench.kernels.dense import export_dense
from nested_sparse.serving.bench.kernels.int8 import calibration_images
from nested_sparse.serving.bench.kernels.model_cache import torch_output, with_zeros
from nested_sparse.serving.bench.kernels.peers import venvs
from nested_sparse.serving.bench.kernels.peers.client import PeerProcess
from nested_sparse.serving.bench.kernels.peers.rows import measure_peers, worker_command
from nested_sparse.serving.bench.kernels.table import PEERS, peer_specs
from nested_sparse.serving.bench.kernels.turns import INT8_TOLERANCE

LEVELS = (0.2, 0.6)
FAKE = Path(__file__).with_name("fake_worker.py")


def command(peer, folder):
    return [sys.executable, str(FAKE), peer]


@pytest.fixture
def built(cache):
    return cache.built("resnet50", "block4x1", LEVELS)


@pytest.fixture
def model(built, cache, tmp_path):
    """The dense model as a peer gets it, its input, and inputs to calibrate by."""
    image, calibration = tmp_path / "input.npy", tmp_path / "calibration.npy"
    np.save(image, built.feed["input"])
    np.save(calibration, np.stack(calibration_images(built.feed["input"].shape)))
    return cache.dense("resnet50").path, image, calibration


def test_load_output_run(cache, model):
    """The name comes with the answer to load; what the engine prints on stdout does no harm."""
    with PeerProcess("fake", command("deepsparse", None), threads=2) as peer:
        peer.load(*model)
        assert peer.name == "Fake 2"
        np.testing.assert_allclose(peer.output(), cache.dense("resnet50").expected, rtol=1e-4, atol=1e-5)
        assert peer.run() > 0.0


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("openvino", "RuntimeError: this engine does not like the model"),
        ("unheard-of", "KeyError"),
        ("dying", "its worker ended with code 7: .*last words"),
    ],
)
def test_failures_are_in_the_peers_own_words(model, engine, message):
    def load_and_run():
        with PeerProcess("fake", command(engine, None), threads=1) as peer:
            peer.load(*model)
            peer.output()

    with pytest.raises(BenchError, match=message):
        load_and_run()


def test_a_worker_that_cannot_be_started():
    with pytest.raises(BenchError, match="could not be started"):
        PeerProcess("fake", ["/no/such/python"], threads=1)


def test_the_twin_with_zeros_is_the_level(built):
    """An ordinary network with the level's zeros and norms answers what the nested one does, and is as sparse."""
    import torch

    for level, density in enumerate(LEVELS):
        twin = with_zeros(built.model, built.net, level)
        got = torch_output(twin, torch.from_numpy(built.feed["input"]))
        np.testing.assert_allclose(got, built.expected[level], rtol=1e-4, atol=1e-5)
        kept = (twin.get_submodule("stage3.1.conv2").weight != 0).float().mean()
        assert float(kept) == pytest.approx(density, abs=0.01)


def test_the_plain_model_is_one_that_old_readers_know(built, tmp_path):
    """onnx 1.14, which DeepSparse needs, ends at opset 19 and IR version 9."""
    import onnx
    import torch

    export_dense(built.model, torch.from_numpy(built.feed["input"]), tmp_path / "plain.onnx", plain=True)
    plain = onnx.load(tmp_path / "plain.onnx")
    assert plain.opset_import[0].version <= 19
    assert plain.ir_version <= 9


def float_specs():
    return [spec for spec in peer_specs("block4x1", LEVELS, threads=1) if spec.values == "float32"]


def test_peers_take_turns_and_fail_alone(cache, tmp_path):
    """One is right, one is wrong by a per cent, one cannot load."""
    specs = float_specs()
    rows = {row.spec: row for row in measure_peers(specs, 3, cache, tmp_path, command)}
    assert set(rows) == set(specs)
    by_peer = {peer: [rows[spec] for spec in specs if spec.peer == peer] for peer in PEERS}
    for row in by_peer["deepsparse"]:
        assert row.against == "Fake 1, 1 thread(s)"
        assert len(row.ours_ms) == len(row.reference_ms) == 3
        assert row.measured == pytest.approx(np.median(row.reference_ms) / np.median(row.ours_ms))
        assert row.reference_error < 1e-3
        assert row.kernel
    assert all("differs from torch by 1.0" in row.unavailable for row in by_peer["mnn"])
    assert all("does not like the model" in row.unavailable for row in by_peer["openvino"])


def test_onnx_runtime_on_a_quantised_model_is_a_peer_too(cache, model, tmp_path):
    """The real worker in this environment; its int8 output is near the float32 one and not equal."""
    dense, image, calibration = model
    quantised = cache.dense("resnet50", values="int8").path
    with PeerProcess("onnxruntime-int8", worker_command("onnxruntime-int8", tmp_path), threads=1) as peer:
        peer.load(quantised, image, calibration)
        assert peer.name.startswith("ONNX Runtime ")
        int8 = peer.output()
    floats = onnxruntime.InferenceSession(dense).run(None, {"input": np.load(image)})[0]
    assert 0 < INT8_TOLERANCE.error(int8, floats) < INT8_TOLERANCE.most


def test_a_peer_that_dies_between_its_turns_is_left_out(cache, tmp_path):
    """The others' rounds are whole, and no row is made of the turns it had."""
    specs = [spec for spec in float_specs() if spec.peer in ("deepsparse", "mnn")]
    engines = {"deepsparse": "deepsparse", "mnn": "fading"}
    rows = measure_peers(specs, 5, cache, tmp_path, lambda peer, home: command(engines[peer], home))
    for row in rows:
        if row.spec.peer == "deepsparse":
            assert len(row.reference_ms) == len(row.ours_ms) == 5
            assert all(spent > 0 for spent in row.reference_ms)
        else:
            assert "ended with code 7" in row.unavailable
            assert (row.measured, row.reference_ms) == (None, [])


def test_an_environment_is_made_once_and_its_failure_has_a_reason(monkeypatch, tmp_path):
    """pip is not really called: what is asked of it, and what its last words become."""
    commands = []

    def run(command, **_):
        commands.append(command)
        if "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True, exist_ok=True)
            (Path(command[-1]) / "bin" / "python").touch()
        broken = any("deepsparse" in word for word in command) and "pip" in command
        return subprocess.CompletedProcess(command, int(broken), "", "ERROR: no such version\nmore\n" if broken else "")

    monkeypatch.setattr(venvs.subprocess, "run", run)
    python = venvs.environment("mnn", tmp_path)
    assert python == tmp_path / "mnn" / "bin" / "python"
    assert "MNN==3.6.1" in commands[-1]
    made = len(commands)
    assert venvs.environment("mnn", tmp_path) == python
    assert len(commands) == made
    for _ in range(2):  # a half-made one is not taken for a whole one
        with pytest.raises(BenchError, match="deepsparse could not be set up: ERROR: no such version"):
            venvs.environment("deepsparse", tmp_path)
    monkeypatch.setitem(venvs.REQUIREMENTS, "mnn", ("MNN==4",))
    venvs.environment("mnn", tmp_path)
    assert "MNN==4" in commands[-1]
