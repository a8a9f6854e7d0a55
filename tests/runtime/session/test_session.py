"""Session: outputs at every level, checks of inputs and levels, threads, and errors of runs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from mappings import mappings
from onnx import TensorProto, helper

from chain import Written, counting_chain, small_chain, small_inputs, write
from nested_sparse.errors import CheckpointError, InputError, KernelError, LevelError, UnavailableError
from nested_sparse.kernels import library
from nested_sparse.placement import LayerPlacement
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.resources.probes import usable_cores
from nested_sparse.runtime.scheduling.request import Request
from nested_sparse.runtime.scheduling.scheduler import Scheduler
from nested_sparse.runtime.session.level_cell import LevelCell
from nested_sparse.runtime.session.session import Session
from nested_sparse.slice import slice_checkpoint
from support import layer_record, random_weight

DENSITIES = (0.2, 0.5, 0.9)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    return small_chain(tmp_path / "model.safetensors")


@pytest.mark.parametrize("level", [0, 1, 2, -1])
def test_outputs_equal_numpy_at_every_level(written: Written, level: int) -> None:
    """The whole chain, against the definition in float64."""
    with Session(written.path, threads=1) as session:
        outputs = session.run(small_inputs(), level=level)
        assert list(outputs) == ["output"]
        expected = written.reference(small_inputs()["input"], level % 3)
        np.testing.assert_allclose(outputs["output"], expected, rtol=1e-4, atol=1e-4)


def test_session_describes_the_model(written: Written) -> None:
    """Name, specs, levels, threads, instruction set."""
    with Session(written.path, threads=2) as session:
        assert (session.name, session.path, session.threads, session.isa) == (
            "model",
            written.path,
            2,
            library.isa(),
        )
        assert [(spec.name, spec.shape) for spec in session.inputs] == [("input", (None, 24))]
        assert [(spec.name, spec.shape) for spec in session.outputs] == [("output", (None, 5))]
        assert [level.index for level in session.levels] == [0, 1, 2]
    with Session(written.path) as session:
        assert session.threads == usable_cores()


def test_switching_the_level_allocates_nothing(written: Written) -> None:
    """After each level has run once, operators allocate no scratch or plans, and the level cell is the same."""
    with Session(written.path, threads=1) as session:
        for level in (0, 1, 2):
            session.run(small_inputs(), level)
        before = library.scratch_allocations()
        results = [session.run(small_inputs(), level)["output"] for level in (2, 0, 1, 0, 2)]
        assert library.scratch_allocations() == before
        np.testing.assert_array_equal(results[0], results[4])
        np.testing.assert_array_equal(results[1], results[3])
        assert np.abs(results[0] - results[1]).max() > 1e-3


def test_weights_are_used_in_the_mapped_file(written: Written) -> None:
    """The tensors ONNX Runtime gets lie inside the mapping of the file: nothing was copied."""
    with Session(written.path, threads=1) as session:
        for level in range(3):
            address = session._segments[f"__segment_{level}__"].data_ptr()
            assert address == session._checkpoint.segment(level).ctypes.data
            assert any(begin <= address < end for begin, end, _ in mappings(written.path))


def test_sliced_file_serves_its_levels(written: Written, tmp_path: Path) -> None:
    """One graph for every slice: same outputs at the levels that are there, LevelError beyond."""
    path = tmp_path / "sliced.safetensors"
    slice_checkpoint(written.path, 1, path)
    with Session(written.path, threads=1) as whole, Session(path, threads=1) as sliced:
        assert len(sliced.levels) == 1
        for level in (0, -1):
            np.testing.assert_array_equal(
                sliced.run(small_inputs(), level)["output"], whole.run(small_inputs(), 0)["output"]
            )
        with pytest.raises(LevelError, match="level 1 is out of range"):
            sliced.run(small_inputs(), 1)
        with pytest.raises(LevelError, match="level 2 is out of range"):
            sliced.run(small_inputs(), LevelCell(2))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "missing"),
        ({**small_inputs(), "extra": np.zeros(1)}, "unknown"),
        ({"input": small_inputs()["input"].astype(np.float64)}, "expected float32, got float64"),
        ({"input": small_inputs(columns=23)["input"]}, "expected shape"),
        ({"input": np.zeros((0, 24), np.float32)}, "expected shape"),
        ({"__level__": np.array(0), **small_inputs()}, "unknown"),
    ],
)
def test_wrong_inputs_are_refused(written: Written, given: dict[str, np.ndarray], words: str) -> None:
    """The error comes before the run and has the input's name."""
    with Session(written.path, threads=1) as session:
        with pytest.raises(InputError, match=words):
            session.run(given)
        assert session.run(small_inputs())["output"].shape == (3, 5)


def test_strided_input_is_accepted(written: Written) -> None:
    """A view that is not contiguous gives the same outputs as its copy."""
    wide = np.random.default_rng(1).standard_normal((3, 48)).astype(np.float32)
    with Session(written.path, threads=1) as session:
        np.testing.assert_array_equal(
            session.run({"input": wide[:, ::2]})["output"], session.run({"input": wide[:, ::2].copy()})["output"]
        )


@pytest.mark.parametrize("level", [3, -2, 10**12])
def test_levels_out_of_range_are_refused(written: Written, level: int) -> None:
    """LevelError, for runs and for resident_level."""
    with Session(written.path, threads=1) as session:
        with pytest.raises(LevelError):
            session.run(small_inputs(), level)
        with pytest.raises(LevelError):
            session.resident_level = level


def test_threads_run_at_their_own_levels(written: Written) -> None:
    """Eight threads at once, each with its own level, get the outputs of their levels."""
    with Session(written.path, threads=1) as session:
        expected = [session.run(small_inputs(), level)["output"] for level in range(3)]
        wrong = []

        def client(number: int) -> None:
            for i in range(60):
                level = (number + i) % 3
                if not np.array_equal(session.run(small_inputs(), level)["output"], expected[level]):
                    wrong.append((number, i))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong


def test_resident_level_gives_memory_back(tmp_path: Path) -> None:
    """Level 0 touches its own pages only; after the densest ran, setting resident_level drops the others again."""
    rng = np.random.default_rng(0)
    weight = random_weight(rng, "big", 1024, 1024, block_rows=1, densities=(0.05, 0.95))
    path = write(tmp_path / "big.safetensors", [layer_record(rng, weight, 2)], 2).path
    x = small_inputs(columns=1024, batch=1)
    with Session(path, threads=1) as session:
        sparse_nbytes, dense_nbytes = (level.nbytes for level in session.levels)
        slack_nbytes = 256 * 1024  # the kernel maps neighbours of a touched page

        def resident_nbytes() -> int:
            return sum(rss for _, _, rss in mappings(path))

        first = session.run(x, 0)["output"]
        assert session.resident_level == 0
        assert resident_nbytes() <= sparse_nbytes + slack_nbytes
        densest = session.run(x)["output"]
        assert session.resident_level == 1
        assert resident_nbytes() >= dense_nbytes - slack_nbytes
        session.resident_level = 0
        assert resident_nbytes() <= sparse_nbytes + slack_nbytes
        np.testing.assert_array_equal(session.run(x, 0)["output"], first)
        np.testing.assert_array_equal(session.run(x)["output"], densest)


def test_closed_session_refuses_to_run(written: Written) -> None:
    """close() may be called again; run() says that it is closed."""
    session = Session(written.path, threads=1)
    session.close()
    session.close()
    with pytest.raises(UnavailableError, match="closed"):
        session.run(small_inputs())


def test_close_waits_for_the_runs_under_way(tmp_path: Path) -> None:
    """A run that began is finished, whatever close() does meanwhile."""
    path = counting_chain(tmp_path / "count.safetensors", 50, 32).path
    session = Session(path, threads=1)
    x = {"input": np.zeros((256, 32), np.float32)}
    outcomes: list[float | str] = []

    def client() -> None:
        try:
            while True:
                outcomes.append(float(session.run(x, 1)["output"][0, 0]))
        except UnavailableError:
            outcomes.append("closed")

    thread = threading.Thread(target=client)
    thread.start()
    while not outcomes:
        time.sleep(0.001)
    session.close()
    thread.join(60)
    assert set(outcomes) == {50.0, "closed"}


def test_graph_that_does_not_load_is_a_checkpoint_error(tmp_path: Path) -> None:
    """With the file's name."""
    path = small_chain(tmp_path / "bad.safetensors", graph=lambda placements: b"no graph").path
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: its graph has a field 13"):
        Session(path, threads=1)


def test_graph_with_other_inputs_is_a_checkpoint_error(tmp_path: Path) -> None:
    """A graph that takes two segments in a file of three levels."""
    path = tmp_path / "bad.safetensors"

    def two_levels(placements: dict[str, LayerPlacement]) -> bytes:
        x = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 24])
        y = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["N", 24])
        graph = helper.make_graph([helper.make_node("Relu", ["input"], ["output"])], "g", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        serialized: bytes = model.SerializeToString()
        return serialized

    small_chain(path, graph=two_levels)
    with pytest.raises(CheckpointError, match="its graph must have the inputs"):
        Session(path, threads=1)


def test_failure_inside_the_graph_names_file_and_level(tmp_path: Path) -> None:
    """An error of ONNX Runtime becomes an error of this package, and the session continues to work."""
    path = tmp_path / "fragile.safetensors"
    written = small_chain(path, graph=None)
    with Session(path, threads=1) as session:
        session._segments["__segment_1__"] = session._segments["__segment_0__"]
        with pytest.raises((KernelError, InputError), match=r"fragile\.safetensors: level 2: .*first"):
            session.run(small_inputs(), 2)
        expected = written.reference(small_inputs()["input"], 0)
        np.testing.assert_allclose(session.run(small_inputs(), 0)["output"], expected, rtol=1e-4, atol=1e-4)


def test_missing_file_and_bad_threads(tmp_path: Path, written: Written) -> None:
    """The errors are CheckpointError and InputError."""
    with pytest.raises(CheckpointError, match="nowhere"):
        Session(tmp_path / "nowhere.safetensors")
    with pytest.raises(InputError, match="threads"):
        Session(written.path, threads=0)


def test_fixed_batch_is_enforced_and_profiled(tmp_path: Path) -> None:
    """A model exported with a fixed batch takes that one only."""
    path = small_chain(tmp_path / "fixed.safetensors", batch=2).path
    with Session(path, threads=1) as session:
        assert session.run(small_inputs(batch=2))["output"].shape == (2, 5)
        with pytest.raises(InputError, match=r"expected shape \[2, 24\]"):
            session.run(small_inputs(batch=3))
        assert LatencyProfile.measure(session, repeats=3).batches == (2,)


def test_digest_tells_models_apart(written: Written, tmp_path: Path) -> None:
    """Equal for a copy under another name, not for a slice."""
    copy, cut = tmp_path / "copy.safetensors", tmp_path / "cut.safetensors"
    copy.write_bytes(written.path.read_bytes())
    slice_checkpoint(written.path, 1, cut)
    digests = []
    for path in (written.path, copy, cut):
        with Session(path, threads=1) as session:
            digests.append(session.digest)
    assert digests[0] == digests[1] != digests[2]


def test_profile_and_scheduler_on_a_real_session(written: Written) -> None:
    """The whole runtime together: measured, scheduled, answered as numpy says."""
    with Session(written.path, threads=1) as session:
        profile = LatencyProfile.measure(session, batches=(1, 4), repeats=3)
        assert (profile.level_count, profile.batches) == (3, (1, 4))
        scheduler = Scheduler(session, profile, ElasticPolicy(profile), default_slo_ms=60_000.0)
        futures = [scheduler.submit(Request(small_inputs(batch=batch), level=batch % 3)) for batch in (1, 2, 3, 4)]
        for batch, future in enumerate(futures, 1):
            response = future.result(60)
            assert response.level == session.levels[batch % 3]
            expected = written.reference(small_inputs(batch=batch)["input"], batch % 3)
            np.testing.assert_allclose(response.outputs["output"], expected, rtol=1e-4, atol=1e-4)
        scheduler.close()


def test_threads_change_while_runs_are_under_way(written: Written) -> None:
    """Every run, on the old pool or the new, gives its level's output; none is lost."""
    with Session(written.path, threads=1) as session:
        expected = {level: session.run(small_inputs(), level)["output"] for level in range(3)}
        stop, wrong, runs = threading.Event(), [], [0, 0]

        def client(index: int) -> None:
            while not stop.is_set():
                level = runs[index] % 3
                try:
                    outputs = session.run(small_inputs(), level)["output"]
                    np.testing.assert_allclose(outputs, expected[level], rtol=1e-4, atol=1e-4)
                except Exception as error:
                    wrong.append(error)
                runs[index] += 1

        clients = [threading.Thread(target=client, args=(index,)) for index in range(2)]
        for each in clients:
            each.start()
        for threads in (2, 1, 3, 2, 1) * 3:
            session.threads = threads
            before = list(runs)
            while any(now == then and not stop.is_set() for now, then in zip(runs, before, strict=True)):
                time.sleep(0.001)
        stop.set()
        for each in clients:
            each.join()
        assert not wrong
        assert session.threads == 1


def test_threads_stay_where_they_cannot_be_set(
    written: Written, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A failed build keeps the old one; none, of a profiled session, and after close() they are refused."""
    with Session(written.path, threads=1) as session:
        expected = session.run(small_inputs())["output"]
        with pytest.raises(InputError, match="at least 1"):
            session.threads = 0
        with monkeypatch.context() as patch:
            patch.setattr("nested_sparse.runtime.session.session.library.register", lambda _: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                session.threads = 2
        assert session.threads == 1
        np.testing.assert_array_equal(session.run(small_inputs())["output"], expected)
    with pytest.raises(UnavailableError):
        session.threads = 2
    with Session(written.path, threads=1, profile_to=tmp_path) as profiled, pytest.raises(InputError, match="profiled"):
        profiled.threads = 2
