"""Forwarded: a call on its way from the ingress to a replica, and the answer on its way back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..fault import Ending
from ..http.local_call import Metadata, Trailers

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Linux's name of the time since this machine was started; containers of one machine share it."""


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeError):
        return ""


_HERE = _boot_id()


class Arrival(NamedTuple):
    """The moment at which a call arrived at the ingress, for a process of this machine or of another one.

    boot_id: of the machine that it arrived at; "" where the system tells none. monotonic_s: by that machine's monotonic
    clock. unix_s: seconds since the epoch, by its wall clock.
    """

    boot_id: str
    monotonic_s: float
    unix_s: float

    @classmethod
    def now(cls) -> Arrival:
        """This moment, here."""
        return cls(_HERE, time.monotonic(), time.time())

    def waited_s(self) -> float:
        """Seconds since then; never below 0.

        On the same machine the monotonic clock counts. Between machines the wall clocks do: they must agree, as those
        of a cluster do with NTP, and an error of theirs is an error of the result.
        """
        if self.boot_id and self.boot_id == _HERE:
            return max(0.0, time.monotonic() - self.monotonic_s)
        return max(0.0, time.time() - self.unix_s)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A call of one of the protocol's methods.

    method: its name, as "ModelInfer". data: the serialised request. arrival: at the ingress. peer: the client's address
    as gRPC writes it. metadata: the call's. left_s: seconds from the arrival to the client's deadline; None: there is
    none. own: the ingress asks for itself, and has no token; no client can make such a call.
    """

    method: str
    data: bytes
    arrival: Arrival
    peer: str = ""
    metadata: Metadata = ()
    left_s: float | None = None
    own: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of a replica: a serialised response with its trailing metadata, or the ending of the call."""

    data: bytes = b""
    trailers: Trailers = ()
    ending: Ending | None = None
