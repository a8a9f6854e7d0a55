"""Spine: the whole path by public names, from torch model to nested file, runtime, server and client."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.kernels.library import scratch_allocations
from nested_sparse.runtime import Session
from nested_sparse.slice import slice_checkpoint
from nested_sparse.trainer import FreezeThenGrow, NestedModel, TrainConfig, accuracy_per_level, export, nest, train
from nested_sparse.trainer.data.images import Batches, LabelledImages, load_digits_images
from nested_sparse.trainer.zoo import DigitNet

LEVELS = (0.1, 0.3, 0.6)


@pytest.fixture(scope="module")
def net_and_images() -> tuple[NestedModel, LabelledImages, LabelledImages]:
    """A small net trained for a few epochs on small digits, and both splits."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train_images, test = load_digits_images(size=12)
    net = nest(DigitNet(width=8), densities=LEVELS, pattern="block4x1", keep_dense=("stem", "fc"))
    config = TrainConfig(dense_epochs=2, search_epochs=1)
    nesting = FreezeThenGrow(epochs_per_level=2)
    train(net, Batches(train_images, 64), F.cross_entropy, config, nesting=nesting)
    return net, train_images, test


@pytest.fixture(scope="module", params=["float32", "int8"])
def trained(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    net_and_images: tuple[NestedModel, LabelledImages, LabelledImages],
) -> tuple[Path, LabelledImages]:
    """The net exported with values of one type, and the test split."""
    net, train_images, test = net_and_images
    path = tmp_path_factory.mktemp("spine") / "digits.safetensors"
    accuracy = accuracy_per_level(net, [(test.images, test.labels)])
    batches = [(train_images.images[:256], train_images.labels[:256])] if request.param == "int8" else None
    export(net, (test.images[:1],), path, metrics={"accuracy": accuracy}, values=request.param, calibration=batches)
    return path, test


def test_every_level_classifies_in_the_runtime_as_it_did_in_training(trained: tuple[Path, LabelledImages]) -> None:
    """The accuracy the file states is what the kernels reach at each level, but for what rounding turns."""
    path, test = trained
    with Session(path, threads=1) as session:
        for level in session.levels:
            logits = session.run({"input": test.images.numpy()}, level.index)["output"]
            accuracy = float((logits.argmax(axis=1) == test.labels.numpy()).mean())
            assert accuracy == pytest.approx(level.metrics["accuracy"], abs=3.5 / len(test))
            assert accuracy > 0.5


def test_a_slice_answers_bit_for_bit_as_the_whole_file_does(
    trained: tuple[Path, LabelledImages], tmp_path: Path
) -> None:
    """The first level alone is a smaller file that gives the same outputs."""
    path, test = trained
    cut = tmp_path / "cut.safetensors"
    slice_checkpoint(path, 1, cut)
    assert cut.stat().st_size < path.stat().st_size / 2
    batch = {"input": test.images[:5].numpy()}
    with Session(path, threads=1) as whole, Session(cut, threads=1) as part:
        assert len(part.levels) == 1
        np.testing.assert_array_equal(part.run(batch)["output"], whole.run(batch, level=0)["output"])


def test_switching_the_level_allocates_nothing(trained: tuple[Path, LabelledImages]) -> None:
    """Once a thread has run the model, no level makes an operator allocate, in any order.

    Operators of int8 keep constants for each level, which they make when it first runs.
    """
    path, test = trained
    batch = {"input": test.images[:2].numpy()}
    with Checkpoint.open(path) as checkpoint:
        int8 = any(layer.value_type.scaled for layer in checkpoint.layers)
    with Session(path, threads=1) as session:
        for level in (0, 1, 2) if int8 else (2,):
            session.run(batch, level=level)
        before = scratch_allocations()
        for level in (0, 2, 1, 0, 1, 2, 0):
            session.run(batch, level=level)
        assert scratch_allocations() == before


def test_levels_grow_in_density_flops_bytes_and_share_their_values(trained: tuple[Path, LabelledImages]) -> None:
    """The file's density, FLOPs and bytes rise with the level."""
    path, _ = trained
    with Session(path, threads=1) as session:
        for below, above in zip(session.levels, session.levels[1:], strict=False):
            assert below.density < above.density
            assert below.flops < above.flops
            assert below.nbytes < above.nbytes


RESIDENT = """
import sys
import numpy as np
from nested_sparse.runtime import Session

def rss_bytes():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))

session = Session(sys.argv[1], threads=1)
x = {"input": np.zeros((1, 2048), np.float32)}
session.run(x, level=0)
sparse = rss_bytes()
session.run(x, level=1)
print(session.levels[0].nbytes, session.levels[1].nbytes, sparse, rss_bytes())
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="resident memory is read from Linux's /proc")
def test_serving_only_the_sparsest_level_leaves_the_rest_on_disk(tmp_path: Path) -> None:
    """Resident memory grows by what the denser level adds when that level first runs, not before."""
    net = nest(
        torch.nn.Sequential(torch.nn.Linear(2048, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 512)),
        densities=(0.05, 0.9),
    )
    path = tmp_path / "wide.safetensors"
    export(net, (torch.randn(1, 2048),), path)
    answer = subprocess.run([sys.executable, "-c", RESIDENT, str(path)], capture_output=True, text=True, check=True)
    level0_nbytes, level1_nbytes, rss0, rss1 = map(int, answer.stdout.split())
    assert level0_nbytes < 0.1 * level1_nbytes
    assert rss1 - rss0 > 0.9 * (level1_nbytes - level0_nbytes)


CLIENT = """
import json, sys
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
images = np.load(sys.argv[2])
x = triton.InferInput("input", list(images.shape), "FP32")
x.set_data_from_numpy(images)
answers = []
for parameters in ({"slo_ms": 5000.0}, {"slo_ms": 5000.0, "level": 0}):
    answer = client.infer("digits", [x], parameters=parameters)
    got = answer.get_response().parameters
    answers.append({"classes": answer.as_numpy("output").argmax(axis=1).tolist(), "level": got["level"].int64_param,
                    "density": got["density"].double_param, "accuracy": got["accuracy"].double_param})
print(json.dumps(answers))
"""


def test_an_unmodified_client_is_served_and_told_the_level(
    trained: tuple[Path, LabelledImages], tmp_path: Path
) -> None:
    """`nested-sparse serve` in a process of its own, tritonclient in another; SIGTERM ends it in order."""
    path, test = trained
    np.save(tmp_path / "images.npy", test.images[:8].numpy())
    command = [
        sys.executable,
        "-m",
        "nested_sparse.serving.cli",
        "serve",
        str(path),
        "--port",
        "0",
        "--json",
        "--slo-ms",
        "5000",
        "--profile-cache",
        "off",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            address = json.loads(server.stdout.readline())["address"]
            arguments = [sys.executable, "-c", CLIENT, address, str(tmp_path / "images.npy")]
            answer = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=300)
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=300) == 0
    chosen, sparsest = json.loads(answer.stdout)
    with Session(path, threads=1) as session:
        for told in (chosen, sparsest):
            level = session.levels[told["level"]]
            logits = session.run({"input": test.images[:8].numpy()}, level.index)["output"]
            assert told["classes"] == logits.argmax(axis=1).tolist()
            assert told["density"] == level.density
            assert told["accuracy"] == level.metrics["accuracy"]
    assert sparsest["level"] == 0
    assert chosen["level"] == 2
