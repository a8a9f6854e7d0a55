"""Forwarded: times between processes and machines, and the way through a pickle."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import grpc
import pytest

from nested_sparse.errors import OverloadedError
from nested_sparse.serving.cluster import forwarded
from nested_sparse.serving.cluster.forwarded import Answer, Arrival, Forwarded
from nested_sparse.serving.fault import Ending


class Clocks:
    """Both clocks, set by hand."""

    def __init__(self, monotonic_s: float, unix_s: float) -> None:
        self.monotonic_s, self.unix_s = monotonic_s, unix_s

    def monotonic(self) -> float:
        return self.monotonic_s

    def time(self) -> float:
        return self.unix_s


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks(100.0, 5000.0)
    monkeypatch.setattr(forwarded, "time", clocks)
    monkeypatch.setattr(forwarded, "_HERE", "this machine")
    return clocks


def test_on_one_machine_a_step_of_the_wall_clock_changes_nothing(clocks: Clocks) -> None:
    arrival = Arrival.now()
    clocks.monotonic_s += 0.25
    clocks.unix_s -= 3600
    assert arrival.waited_s() == 0.25


@pytest.mark.parametrize("boot_id", ["another machine", ""])
def test_between_machines_the_wall_clocks_count(clocks: Clocks, boot_id: str) -> None:
    """The monotonic clock of another machine, or of one without a name, says nothing here."""
    assert Arrival(boot_id, 7.0, 4999.5).waited_s() == 0.5


def test_a_clock_that_goes_ahead_makes_no_negative_wait(clocks: Clocks) -> None:
    assert Arrival("another machine", 0.0, 5001.0).waited_s() == 0.0
    assert Arrival("this machine", 101.0, 0.0).waited_s() == 0.0


def test_the_boot_id_is_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text("0b1f\n")
    monkeypatch.setattr(forwarded, "BOOT_ID", tmp_path / "boot_id")
    assert forwarded._boot_id() == "0b1f"
    monkeypatch.setattr(forwarded, "BOOT_ID", tmp_path / "none")
    assert forwarded._boot_id() == ""


def test_a_call_and_its_answer_pass_through_a_pickle() -> None:
    """As Ray sends them; the status and its details arrive whole."""
    call = Forwarded(
        "ModelInfer", b"\0\xff", Arrival.now(), "ipv4:1.2.3.4:5", (("key", "value"), ("k-bin", b"\1")), 0.5
    )
    assert pickle.loads(pickle.dumps(call)) == call
    ending = Ending.of(OverloadedError("shed: too much", 12.0))
    answer = pickle.loads(pickle.dumps(Answer(b"", (("a", "b"),), ending)))
    assert answer.ending == ending
    assert answer.ending.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(answer.ending.trailers)["grpc-retry-pushback-ms"] == "12"


def test_this_machine_knows_itself() -> None:
    begun_s = time.monotonic()
    waited_s = Arrival.now().waited_s()
    assert 0.0 <= waited_s <= time.monotonic() - begun_s
