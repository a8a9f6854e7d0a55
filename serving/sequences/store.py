"""SequenceStore: the states of all sequences of a server, as many as its limits allow."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from nested_sparse.argument import finite, whole
from nested_sparse.errors import OverloadedError, ServingError

from ..served_model import ServedModel
from .sequence import EVERY, Key, Sequence

IDLE, EVICTED, UNLOADED, FAILED = "idle", "evicted", "unloaded", "failed"
"""Reasons for which a sequence is forgotten before its end."""


@dataclass(frozen=True, slots=True)
class SequenceLimits:
    """Limits of the sequences of all models together. Raises ServingError for a value that is out of range.

    most: number of sequences; 0: none is kept. most_bytes: of their states. idle_s: seconds without an
    answered request after which one is forgotten.
    """

    most: int = 1024
    most_bytes: int = 256 << 20
    idle_s: float = 60.0

    def __post_init__(self) -> None:
        whole("most", self.most, 0, error=ServingError)
        whole("most_bytes", self.most_bytes, 0, error=ServingError)
        finite("idle_s", self.idle_s, 0.001, error=ServingError)


class SequenceStore:
    """Sequences by model, client and id. Belongs to one event loop.

    Where there is no room for another one, the client that has most of what is short, sequences or bytes, loses the one
    that it has not used for the longest time, if it has no request under way and its client still has no less than the
    one that needs the room. A client that stays within its fair share, that is the limit divided by the number of
    clients with a sequence, is never refused: then the client that has most loses one in any case. Otherwise the client
    that needs the room is refused.

    counts: [sequences, bytes] by the name of the model. lost: sequences by the name of the model and the reason.
    Both may be read from any thread.
    """

    def __init__(self, limits: SequenceLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.counts: dict[str, list[int]] = {}
        self.lost: Counter[tuple[str, str]] = Counter()
        self._clock = clock
        self._all: OrderedDict[Key, Sequence] = OrderedDict()  # the one that was used last is last
        self._of_clients: dict[str, list[int]] = {}  # as counts
        self._nbytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._all)

    def find(self, key: Key) -> Sequence | None:
        """The sequence of this key, if it is kept."""
        self.expire()
        return self._all.get(key)

    def add(self, key: Key) -> Sequence:
        """A new sequence. Raises OverloadedError where there is no room."""
        self._make_room(key[1], 1, 0)
        sequence = self._all[key] = Sequence(key, self._clock())
        self._count(sequence, 1, 0)
        if self._timer is None:
            self._arm(self.limits.idle_s)
        return sequence

    def touch(self, sequence: Sequence) -> None:
        """Note that the sequence is used now."""
        if not sequence.gone:
            sequence.used_s = self._clock()
            self._all.move_to_end(sequence.key)

    def resize(self, sequence: Sequence, nbytes: int) -> None:
        """Keep so many bytes for the sequence. Raises OverloadedError where there is no room for more."""
        if sequence.gone:
            return
        more = nbytes - sequence.nbytes
        if more > 0:
            self._make_room(sequence.client, 0, more, nbytes)
        self._count(sequence, 0, more)
        sequence.nbytes = nbytes

    def remove(self, sequence: Sequence) -> None:
        """Forget the sequence and its state."""
        if sequence.gone:
            return
        del self._all[sequence.key]
        self._count(sequence, -1, -sequence.nbytes)
        sequence.gone, sequence.state, sequence.nbytes = True, None, 0

    def tidy(self, sequence: Sequence) -> None:
        """Forget the sequence where no request is under way and none can go on with it."""
        if sequence.visits or sequence.gone:
            return
        if sequence.broken is EVERY:
            self._lose(sequence, FAILED)
        elif sequence.state is None:
            self.remove(sequence)

    def drop(self, models: Collection[ServedModel]) -> None:
        """Forget all sequences of models that are served no longer."""
        for sequence in [each for each in self._all.values() if each.key[0] in models] if models else ():
            self._lose(sequence, UNLOADED)

    def expire(self) -> None:
        """Forget the sequences that were idle too long."""
        since_s = self._clock() - self.limits.idle_s
        while self._all and (oldest := next(iter(self._all.values()))).used_s <= since_s:
            if oldest.visits:
                self.touch(oldest)
            else:
                self._lose(oldest, IDLE)

    def close(self) -> None:
        """Forget all, with no timer left."""
        for sequence in list(self._all.values()):
            self.remove(sequence)
        if self._timer is not None:
            self._timer.cancel()

    def _make_room(self, client: str, count: int, nbytes: int, whole_nbytes: int = 0) -> None:
        """whole_nbytes: of the sequence that needs `nbytes` more."""
        self.expire()
        if whole_nbytes > self.limits.most_bytes or count > self.limits.most:
            raise OverloadedError(f"shed: {self._said(nbytes)}; no sequence as large can be kept", None)
        while True:
            short_of_bytes = self._nbytes + nbytes > self.limits.most_bytes
            if not short_of_bytes and len(self._all) + count <= self.limits.most:
                return
            victim = self._victim(client, nbytes if short_of_bytes else count, int(short_of_bytes))
            if victim is None:
                oldest = next(iter(self._all.values()))
                retry_ms = max(1.0, (oldest.used_s + self.limits.idle_s - self._clock()) * 1e3)
                raise OverloadedError(f"shed: {self._said(nbytes)}; end sequences that are done", retry_ms)
            self._lose(victim, EVICTED)

    def _victim(self, client: str, need: int, measure: int) -> Sequence | None:
        """The sequence that makes way. measure: 0 counts sequences, 1 bytes."""
        richest = max(self._of_clients, key=lambda name: self._of_clients[name][measure])
        most = self._of_clients[richest][measure]
        own = self._of_clients.get(client, [0, 0])[measure] + need
        held = [each for each in self._all.values() if each.client == richest and (each.nbytes if measure else 1)]
        idle = next((each for each in held if not each.visits), None)
        if idle is not None and most - (idle.nbytes if measure else 1) >= own:
            return idle
        share = (self.limits.most_bytes if measure else self.limits.most) // len({*self._of_clients, client})
        return (idle or held[0]) if own <= share < most else None

    def _said(self, nbytes: int) -> str:
        limits = self.limits
        more = f" and {nbytes} bytes are needed" if nbytes else ""
        return (
            f"the server keeps {len(self._all)} of at most {limits.most} sequences, with {self._nbytes} of at most "
            f"{limits.most_bytes} bytes{more}"
        )

    def _lose(self, sequence: Sequence, reason: str) -> None:
        self.lost[sequence.key[0].name, reason] += 1
        sequence.lost = reason
        self.remove(sequence)

    def _count(self, sequence: Sequence, count: int, nbytes: int) -> None:
        self._nbytes += nbytes
        for table, name in ((self.counts, sequence.key[0].name), (self._of_clients, sequence.client)):
            held = table.setdefault(name, [0, 0])
            held[0] += count
            held[1] += nbytes
        if not self._of_clients[sequence.client][0]:
            del self._of_clients[sequence.client]

    def _arm(self, after_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(after_s, self._tick)

    def _tick(self) -> None:
        """Free the memory of idle sequences also where no request comes."""
        self._timer = None
        self.expire()
        if self._all:
            oldest = next(iter(self._all.values()))
            self._arm(max(0.001, oldest.used_s + self.limits.idle_s - self._clock()))
