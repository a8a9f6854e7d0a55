"""generate: the tokens of a text, one after the other, from an open checkpoint, in the caller's thread."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import fields
from typing import Any, Protocol

from nested_sparse.errors import DeadlineError, InputError, OverloadedError
from nested_sparse.level import stated_accuracies
from nested_sparse.state import State

from ..policy import ElasticPolicy, LevelPolicy
from ..profiling import LatencyProfile, ProfileStore, default_folder, profile_of
from ..scheduling import Request, Response, Runner, Scheduler
from ..session import Session
from .generation import Generation, Token
from .text_model import text_model
from .text_request import TextRequest

DEFAULT_MS = 1000.0
"""Time of a token where no rate is asked for."""


class Writer(Runner, Protocol):
    """The part of a Session that a Generator needs."""

    @property
    def state(self) -> State: ...  # noqa: D102 -- as in Session


class Generator:
    """A checkpoint that continues texts, with the times of its levels on this device.

    profile: None measures the levels, or checks the measurements that a server or another Generator has kept.
    policy: chooses the level of each token; None: the densest in time, as a server's. clock, sleep: seconds; a fake
    clock stands still while nothing sleeps or runs.
    Raises InputError for a checkpoint that continues no texts, and what measuring raises.
    """

    def __init__(
        self,
        session: Writer,
        *,
        profile: LatencyProfile | None = None,
        policy: LevelPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if isinstance(session, str | os.PathLike):
            raise InputError(f"Generator: expected an open Session, got a path; give Session({str(session)!r})")
        model = text_model(session.inputs, session.outputs, session.state)
        if model is None:
            raise InputError(
                f"{session.name}: it continues no texts; expected a model whose one input is int64 bytes (N, T), whose "
                "one output is their logits (N, T, 256), and whose states have at most one free size, as the recipe "
                "'bytes' writes with --set output.stepwise=true"
            )
        if profile is None:
            profile = _measured(session)
        if policy is None:
            policy = ElasticPolicy(profile, accuracy=stated_accuracies(session.levels))
        self._model, self._clock, self._sleep = model, clock, sleep
        # nothing is sent, so no time is kept for a reply
        self._scheduler = Scheduler(
            session,
            profile,
            policy,
            default_slo_ms=DEFAULT_MS,
            reply_margin_ms=0.0,
            reply_margin_share=0.0,
            workers=0,
            clock=clock,
        )

    def generate(self, prompt: str | bytes, **asked: Any) -> Iterator[Token]:
        """The tokens that continue `prompt`, each as soon as it is there. asked: other fields of TextRequest.

        Of a text `prompt` or `stop` the UTF-8 bytes count. Raises InputError and LevelError at once; while it goes on
        what a Session's run raises, and DeadlineError where timeout_ms passes.
        """
        asked["prompt"] = prompt
        known = [field.name for field in fields(TextRequest)]
        if unknown := [name for name in asked if name not in known]:
            raise InputError(f"generate: unknown arguments {unknown}; expected some of {', '.join(known)}")
        for name in ("prompt", "stop"):
            if isinstance(asked.get(name), str):
                asked[name] = _utf8(name, asked[name])
        request = TextRequest(**asked)
        return self._tokens(
            Generation(
                self._model,
                request,
                self._scheduler.levels,
                arrived_s=self._clock(),
                default_slo_ms=DEFAULT_MS,
            )
        )

    def _tokens(self, generation: Generation) -> Iterator[Token]:
        while not generation.finish:
            if (wait_s := generation.begins_s - self._clock()) > 0:
                self._sleep(wait_s)
            try:
                response = self._run(generation.request(self._clock()))
            except (DeadlineError, OverloadedError):
                response = self._run(generation.late_request(self._clock()))
            yield generation.take(response, self._clock())

    def _run(self, request: Request) -> Response:
        future: Future[Response] = self._scheduler.submit(request)
        try:
            while not future.done():
                self._scheduler.serve_next()
            return future.result()
        finally:
            del future  # it holds its error, whose traceback holds this frame and with it the request


def generate(session: Session, prompt: str | bytes, **asked: Any) -> Iterator[Token]:
    """The tokens that continue `prompt`: `for token in generate(session, "A man", tokens_per_s=50): …`.

    asked: tokens_per_s, max_tokens, temperature, seed, stop, level and others, see TextRequest. Each token's text is
    one byte. It measures the levels first, or checks what it measured once; to continue many texts, keep a Generator.
    Raises what Generator and its generate() raise.
    """
    return Generator(session).generate(prompt, **asked)


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name}: character {error.start} is {text[error.start]!a}, half of a character, which UTF-8 has not; "
            "give whole characters, or bytes"
        ) from None


def _measured(session: Any) -> LatencyProfile:
    folder = default_folder()
    return profile_of(session, None if folder is None else ProfileStore(folder)).profile
