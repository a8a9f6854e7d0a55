"""Generation: one text on its way, from request to request of its scheduler, each of which gives a token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nested_sparse.errors import DeadlineError, InputError
from nested_sparse.level import Level

from ..scheduling import Request, Response, allowed_levels
from .sampler import Sampler
from .text_model import TextModel
from .text_request import TextRequest

STOP, LENGTH = "stop", "length"
"""Reasons for the end of a text: its stop text came; it has all its tokens."""
MS_PER_S = 1000.0


@dataclass(frozen=True, slots=True)
class Token:
    """One token. text: its byte. response: that of its run. late: it was done after its deadline.

    finish: the reason for which it is the last; "": it is not.
    """

    text: bytes
    response: Response
    late: bool = False
    finish: str = ""

    @property
    def level(self) -> int:
        """Index of the level that it was computed at."""
        return self.response.level.index


class Generation:
    """The state of a text, and the deadlines of its tokens.

    Token k, from 1, is due k / tokens_per_s seconds after the arrival, and is not begun before token k - 1 is due: so
    a policy sees the load that the rate means, and others have the time in between. A token that cannot be in time is
    computed all the same, at the sparsest level that the request allows: a text that stops in its middle is worth less.

    Where the text is longer than the state's room, the last half of the room is read anew, as a new text.

    arrived_s: reading of the scheduler's clock. default_slo_ms: of the scheduler. Raises InputError.
    """

    def __init__(
        self,
        model: TextModel,
        asked: TextRequest,
        levels: Sequence[Level],
        *,
        arrived_s: float,
        default_slo_ms: float,
    ) -> None:
        if len(asked.prompt) > model.longest:
            raise InputError(
                f"prompt: expected at most {model.longest} bytes, which the model reads at once, got "
                f"{len(asked.prompt)}; send the last of them"
            )
        self._model, self._asked, self._arrived_s = model, asked, arrived_s
        timeout_ms = math.inf if asked.timeout_ms is None else asked.timeout_ms
        self._ends_s = arrived_s + timeout_ms / MS_PER_S
        self._period_s = default_slo_ms / MS_PER_S if asked.tokens_per_s is None else 1.0 / asked.tokens_per_s
        self._sparsest, _ = allowed_levels(self._request({}), levels)
        self._sampler = Sampler(asked.temperature, asked.seed)
        self._text = bytearray(asked.prompt)
        self._unread = len(self._text)
        self._held = 0  # bytes of the text that the state has
        self._states = model.with_room(model.first_state(), self._unread)
        self.count = 0
        self.finish = ""

    @property
    def nbytes(self) -> int:
        """Bytes of its state."""
        return sum(array.nbytes for array in self._states.values())

    @property
    def begins_s(self) -> float:
        """Time to wait for before request(): the next token's, or that of the end of the text's time."""
        return min(self._arrived_s + self.count * self._period_s, self._ends_s)

    @property
    def due_s(self) -> float:
        """Deadline of the next token."""
        return self._arrived_s + (self.count + 1) * self._period_s

    def request(self, now_s: float) -> Request:
        """The request for the next token, in time. Raises DeadlineError where its time, or the text's, has passed."""
        left_ms = (self.due_s - now_s) * MS_PER_S
        if left_ms <= 0 or now_s >= self._ends_s:
            raise DeadlineError("expired: the token's deadline has passed")
        return replace(self._request(self._inputs()), slo_ms=left_ms, received_s=now_s, timeout_ms=self._left_ms(now_s))

    def late_request(self, now_s: float) -> Request:
        """The request for the next token where request() was refused: as soon as it can be.

        Raises DeadlineError where the time of the whole text has passed.
        """
        if now_s >= self._ends_s:
            raise DeadlineError(
                f"expired: the timeout of the whole text, {self._asked.timeout_ms:g} ms, passed after {self.count} of "
                f"{self._asked.max_tokens} tokens"
            )
        wanted = self._request(self._inputs())
        return replace(
            wanted, level=self._sparsest, min_accuracy=None, received_s=now_s, timeout_ms=self._left_ms(now_s)
        )

    def take(self, response: Response, now_s: float) -> Token:
        """The token of this response to its last request, done at `now_s`. Raises ServingError."""
        byte = self._sampler.pick(response.outputs[self._model.logits][0, -1])
        late = now_s > self.due_s
        self._states = self._model.next_state(response.outputs)
        self._held += self._unread
        self._text.append(byte)
        self._unread = 1
        if self._held + self._unread > self._model.longest:
            self._states, self._held = self._model.first_state(), 0
            self._unread = max(1, self._model.longest // 2)
        self._states = self._model.with_room(self._states, self._held + self._unread)
        self.count += 1
        if self._asked.stop and self._text.endswith(self._asked.stop, len(self._asked.prompt)):
            self.finish = STOP
        elif self.count == self._asked.max_tokens:
            self.finish = LENGTH
        return Token(bytes((byte,)), response, late, self.finish)

    def _inputs(self) -> dict[str, np.ndarray]:
        unread = np.frombuffer(bytes(self._text[-self._unread :]), np.uint8).astype(np.int64)
        return {self._model.words: unread[None], **self._states}

    def _request(self, inputs: dict[str, np.ndarray]) -> Request:
        asked = self._asked
        return Request(
            inputs, level=asked.level, min_accuracy=asked.min_accuracy, priority=asked.priority, client=asked.client
        )

    def _left_ms(self, now_s: float) -> float | None:
        return None if math.isinf(self._ends_s) else (self._ends_s - now_s) * MS_PER_S
