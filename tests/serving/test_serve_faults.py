"""Serve faults: `nested-sparse serve` in a process, with changing files, signals and failures while it loads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nested_sparse.checkpoint import Checkpoint
from nested_sparse.mapped_file import MappedFile
from nested_sparse.proto import messages
from support import EXAMPLE

COMMAND = (sys.executable, "-m", "nested_sparse.serving.cli", "serve")
OPTIONS = ("--port", "0", "--threads", "1", "--profile-cache", "off", "--json", "--slo-ms", "60000")


def lease_refused(file: Path) -> str:
    """Why a served file cannot be guarded here, "" where it can."""
    with file.open("rb") as handle:
        mapped = MappedFile(file, handle)
    refused = mapped.guard()
    mapped.close()
    return refused


@contextmanager
def started(*files: Path, command: tuple[str, ...] = COMMAND) -> Iterator[subprocess.Popen[str]]:
    command = (*command, *map(str, files), *OPTIONS)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The next line of its log with `text`."""
    assert process.stderr is not None
    line = next((line for line in process.stderr if text in line), None)
    assert line is not None, f"the log ends without {text!r}"
    return line


@contextmanager
def answers_of(file: Path) -> Iterator[tuple[subprocess.Popen[str], object]]:
    """A server of the file, and a function that gives the bytes it answers at each level."""
    with Checkpoint.open(file) as checkpoint:
        (spec,), level_count = checkpoint.inputs, len(checkpoint.levels)
    x = np.random.default_rng(3).standard_normal((2, *spec.shape[1:])).astype(np.float32)  # type: ignore[arg-type]
    with started(file) as process:
        ready = process.stdout.readline()  # type: ignore[union-attr]
        assert ready, process.stderr.read()  # type: ignore[union-attr]
        with grpc.insecure_channel(json.loads(ready)["address"]) as channel:
            infer = channel.unary_unary(
                f"/{messages.SERVICE_NAME}/ModelInfer",
                request_serializer=messages.ModelInferRequest.SerializeToString,
                response_deserializer=messages.ModelInferResponse.FromString,
            )

            def answers() -> list[bytes]:
                got = []
                for level in range(level_count):
                    request = messages.ModelInferRequest(model_name=file.stem)
                    request.inputs.add(name=spec.name, datatype="FP32", shape=x.shape)
                    request.raw_input_contents.append(x.tobytes())
                    request.parameters["level"].int64_param = level
                    got.append(infer(request, timeout=180).raw_output_contents[0])
                return got

            yield process, answers


def truncated(file: Path) -> None:
    os.truncate(file, 100)


def overwritten(file: Path) -> None:
    nbytes = file.stat().st_size
    with file.open("r+b") as handle:
        handle.write(b"\xff" * nbytes)


def copied_over(file: Path) -> None:
    """Overwrite the file as cp does: the same file with other contents."""
    shutil.copyfile(__file__, file)


def renamed_over(file: Path) -> None:
    new = file.with_suffix(".new")
    new.write_bytes(b"new")
    new.replace(file)


def removed(file: Path) -> None:
    file.unlink()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    it = tmp_path / "net.safetensors"
    shutil.copyfile(EXAMPLE, it)
    return it


@pytest.mark.parametrize("change", [truncated, overwritten, copied_over, renamed_over, removed])
def test_a_served_file_changes(copy: Path, change) -> None:
    """After any change of the file, each level computes the same as before, and the log describes the change."""
    in_place = change not in (renamed_over, removed)
    if in_place and (refused := lease_refused(copy)):
        pytest.skip(f"the temporary folder's file system grants no leases: {refused}")
    with answers_of(copy) as (process, answers):
        expected = answers()
        change(copy)
        assert answers() == expected
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=180)
        assert process.returncode == 0, log
        assert ("was opened for writing" in log) == in_place


ENDLESS_SCRIPT = """
import sys
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.serving.cli import main

measure = LatencyProfile.measure.__func__


def measured_for_ever(cls, *arguments, **options):
    while True:
        measure(cls, *arguments, **options)


LatencyProfile.measure = classmethod(measured_for_ever)
sys.argv[1:1] = ["serve"]
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_while_measuring(copy: Path, number: signal.Signals, code: int) -> None:
    """The output is one line and the shell's code for the signal; there is no message that the server is ready."""
    with started(copy, command=(sys.executable, "-c", ENDLESS_SCRIPT)) as process:
        line_with(process, "measuring")
        process.send_signal(number)
        out, log = process.communicate(timeout=180)
    assert process.returncode == code, log
    assert out == ""
    assert log.splitlines()[-1].endswith(f"stopped by {number.name} before the models were ready")
    assert "Traceback" not in log
    assert list(copy.parent.iterdir()) == [copy]


def test_second_model_fails(copy: Path, tmp_path: Path) -> None:
    """One line names the file, and the first model is not served without the second."""
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(EXAMPLE.read_bytes()[:-1])
    done = subprocess.run([*COMMAND, copy, bad, *OPTIONS], capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("nested-sparse: bad.safetensors: cut off")
    assert "Traceback" not in done.stderr
    assert "serving" not in done.stderr


STUCK_SCRIPT = """
import sys, time
import nested_sparse.runtime.scheduling.running_jobs as under_way
from nested_sparse.runtime.session.session import Session
from nested_sparse.serving.cli import main

run = Session.run
under_way.stuck_after_s = lambda predicted_ms: 0.3


def never_ending_for_three(session, inputs, *arguments, **options):
    if len(next(iter(inputs.values()))) == 3:
        time.sleep(3600)
    return run(session, inputs, *arguments, **options)


Session.run = never_ending_for_three
sys.argv[1:1] = ["serve"]
main()
"""


def test_a_stuck_inference(copy: Path) -> None:
    """Its client and all others get UNAVAILABLE, and SIGTERM still ends the process, in one line and with code 1."""
    with Checkpoint.open(copy) as checkpoint:
        (spec,) = checkpoint.inputs
    command = [sys.executable, "-c", STUCK_SCRIPT, str(copy), *OPTIONS, "--grace-s", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            ready = process.stdout.readline()  # type: ignore[union-attr]
            assert ready, process.stderr.read()  # type: ignore[union-attr]
            with grpc.insecure_channel(json.loads(ready)["address"]) as channel:
                infer = channel.unary_unary(
                    f"/{messages.SERVICE_NAME}/ModelInfer",
                    request_serializer=messages.ModelInferRequest.SerializeToString,
                )
                health = health_pb2_grpc.HealthStub(channel)
                updates = health.Watch(health_pb2.HealthCheckRequest(service=copy.stem), timeout=180)
                assert next(updates).status == health_pb2.HealthCheckResponse.SERVING
                for samples, text in ((3, "does not end"), (1, "stuck")):
                    x = np.zeros((samples, *spec.shape[1:]), np.float32)  # type: ignore[arg-type]
                    request = messages.ModelInferRequest(model_name=copy.stem)
                    request.inputs.add(name=spec.name, datatype="FP32", shape=x.shape)
                    request.raw_input_contents.append(x.tobytes())
                    with pytest.raises(grpc.RpcError) as caught:
                        infer(request, timeout=180)
                    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
                    assert text in caught.value.details()
                    if samples == 3:
                        assert next(updates).status == health_pb2.HealthCheckResponse.NOT_SERVING
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=180)
        finally:
            process.kill()
    assert process.returncode == 1, log
    assert log.splitlines()[-1].endswith("ended with an inference of net still stuck")
