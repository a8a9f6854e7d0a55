"""Log format: no text of a client or a file can forge a line, control a terminal, or flood the log."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nested_sparse.proto import messages
from nested_sparse.serving.log_format import MAX_LINE, LogFormat

HOSTILE = "\n2026-01-01 00:00:00,000 ERROR forged\x1b[2J\r\x9b31m\u202e" + 100_000 * "x"
RECORD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ ")


@pytest.fixture
def log() -> tuple[logging.Logger, io.StringIO]:
    """A logger of its own and what it has written."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(LogFormat())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger, text


def check(text: str, records: int) -> list[str]:
    """Its lines: so many records, the rest indented or an error's own, none long, none with control characters."""
    lines = text.rstrip("\n").split("\n")
    assert sum(bool(RECORD.match(line)) for line in lines) == records
    for line in lines:
        assert line.isprintable()
        assert len(line) <= MAX_LINE + 100
    return lines


def test_a_message_is_one_line(log: tuple[logging.Logger, io.StringIO]) -> None:
    """Whether in the arguments or in the message itself."""
    logger, text = log
    logger.warning("model %s", HOSTILE)
    logger.warning(HOSTILE)
    assert len(check(text.getvalue(), 2)) == 2
    assert r"model \n2026-01-01 00:00:00,000 ERROR forged\x1b[2J\r\x9b31m\u202e" in text.getvalue()


@given(st.text(alphabet=st.characters()))
def test_whatever_the_text_a_record_is_one_printable_line(text: str) -> None:
    line = LogFormat().format(logging.LogRecord("test", logging.INFO, "", 0, text, (), None))
    assert line.isprintable()


def raise_hostile() -> None:
    """From another, both with hostile texts, one with a note that looks like a frame."""
    try:
        raise KeyError(HOSTILE)
    except KeyError as error:
        failure = RuntimeError(HOSTILE)
        if hasattr(failure, "add_note"):
            failure.add_note('  File "forged"' + HOSTILE)
        raise failure from error


def test_a_traceback_keeps_its_frames_and_escapes_its_texts(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, text = log
    try:
        raise_hostile()
    except RuntimeError:
        logger.exception("failed")
    lines = check(text.getvalue(), 1)
    assert "      raise failure from error" in lines
    assert [line for line in lines if line.startswith(r"  RuntimeError: \n2026-01-01 00:00:00,000 ERROR forged\x1b")]
    assert [line for line in lines if line.startswith("  KeyError: ")]
    assert [line for line in lines if "direct cause" in line]
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_traceback_that_another_handler_wrote_is_not_taken_over(log: tuple[logging.Logger, io.StringIO]) -> None:
    """logging keeps it at the record."""
    logger, text = log
    logger.handlers.insert(0, logging.StreamHandler(io.StringIO()))
    try:
        raise RuntimeError(HOSTILE)
    except RuntimeError:
        logger.exception("failed")
    check(text.getvalue(), 1)


def run_with_log(body: str) -> subprocess.CompletedProcess[str]:
    """Python that has set up the log as the command line does."""
    script = f"from nested_sparse.serving.log import set_up_log\nset_up_log()\n{body}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)


def test_an_error_that_ends_a_thread_is_in_the_log_and_escaped() -> None:
    body = "def f(): raise RuntimeError('a\\nb\\x1b[2J')\n"
    done = run_with_log(f"{body}import threading\nt = threading.Thread(target=f); t.start(); t.join()")
    assert r"  RuntimeError: a\nb\x1b[2J" in check(done.stderr, 1)
    assert "thread Thread-1" in done.stderr


def test_text_of_a_client_is_escaped_in_the_log(model, server, log) -> None:
    """An unexpected error whose text contains the client's input."""
    logger, text = log
    handler = logger.handlers[0]
    logs = logging.getLogger("nested_sparse.serving")
    run: Callable[..., object] = model.engine.run_or_queue

    def fail(request):
        raise RuntimeError(f"no way to run {HOSTILE}")

    model.engine.run_or_queue = fail
    logs.addHandler(handler)
    try:
        with grpc.insecure_channel(server.address) as channel:
            request = messages.ModelInferRequest(model_name="net")
            request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
            request.raw_input_contents.append(np.zeros(4, np.float32).tobytes())
            call = channel.unary_unary(f"/{messages.SERVICE_NAME}/ModelInfer").future(request.SerializeToString())
            assert call.code() == grpc.StatusCode.INTERNAL
    finally:
        logs.removeHandler(handler)
        model.engine.run_or_queue = run
    lines = check(text.getvalue(), 1)
    assert "model_infer failed, incident" in lines[0]
    assert [line for line in lines if line.startswith(r"  RuntimeError: no way to run \n2026-01-01")]


def test_a_thread_that_exits_is_not_logged() -> None:
    done = run_with_log("import threading\nt = threading.Thread(target=exit); t.start(); t.join()")
    assert done.stderr == ""
