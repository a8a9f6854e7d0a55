"""Texts: the requests for texts of one server, each of which is answered with a response for each token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from nested_sparse.errors import DeadlineError, InputError, OverloadedError, SequenceError
from nested_sparse.proto.messages import ModelInferRequest, ModelInferResponse
from nested_sparse.runtime.generation import Generation, Token, text_model
from nested_sparse.runtime.scheduling import Response

from ..dataplane import Dataplane
from ..metrics import Metrics
from ..protocol.call import Call
from ..protocol.classification import TEXTS
from ..protocol.parameters import MS_PER_S
from ..rights.caller import check_priority, client_name
from ..sequences.sequence import Sequence
from ..sequences.store import EVICTED, UNLOADED
from ..served_model import ServedModel
from .text_message import read_text_request, token_response

LONGEST_SLEEP_S = 0.25
"""A text whose next token is far off looks so often whether its state is still kept: an unloaded model waits for it."""
GONE = {
    "": "the server ends; send the text to another one",
    EVICTED: "the text's state made way for a client that had less room; send it again, or fewer texts at once",
    UNLOADED: "the text's model was unloaded, or another version took its place; send the text again",
}
"""Words for a text whose state was forgotten, by the reason."""


class Texts:
    """Continues texts. Belongs to one event loop.

    The state of a text counts as that of a sequence while it is written: the same limits hold, and the same metrics.
    Each token is a request of the metrics.
    """

    def __init__(self, dataplane: Dataplane, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._dataplane, self._metrics, self._clock = dataplane, metrics, clock

    async def responses(
        self, message: ModelInferRequest, received_s: float, time_left_s: float | None
    ) -> AsyncGenerator[ModelInferResponse, None]:
        """A response for each token. Closing the iterator frees the text's state.

        received_s: time of arrival. time_left_s: seconds from then to the transport's deadline; None: there is none.
        Raises what Dataplane.find() and infer() raise; InputError; OverloadedError where there is no room for its
        state; SequenceError where its state was forgotten for others, or its model unloaded.
        """
        with self._metrics.unread():
            model = self._dataplane.find(message.model_name, message.model_version)
        with self._metrics.request(model, received_s):  # a refusal is one of the model's
            generation = self._generation(model, message, received_s, time_left_s)
            kept = self._keep(model, generation)
        try:
            with self._dataplane.held(model):
                while not generation.finish:
                    while not kept.gone and (wait_s := generation.begins_s - self._clock()) > 0:
                        await asyncio.sleep(min(wait_s, LONGEST_SLEEP_S))
                    yield token_response(message, model.version, await self._token(model, generation, kept))
        finally:
            kept.visits = 0
            self._dataplane.sequences.remove(kept)

    def _generation(
        self, model: ServedModel, message: ModelInferRequest, received_s: float, time_left_s: float | None
    ) -> Generation:
        text = text_model(model.inputs, model.outputs, model.state)
        if text is None:
            raise InputError(
                f"Model {model.name!r} continues no texts, and the request has an input of {TEXTS}; send the inputs of "
                "the model's metadata, or name a model whose state and tensors are those of a language model of bytes "
                "(docs/serving.md, Texts)."
            )
        self._dataplane.check_ready()
        asked = read_text_request(message, time_left_s)
        check_priority(asked.priority)
        return Generation(text, asked, model.levels, arrived_s=received_s, default_slo_ms=model.default_slo_ms)

    def _keep(self, model: ServedModel, generation: Generation) -> Sequence:
        """The text among the sequences, so that their limits hold for both."""
        store = self._dataplane.sequences
        kept = store.add((model, client_name.get(), generation))
        kept.visits = 1  # it is under way, not idle
        try:
            store.resize(kept, generation.nbytes)
        except OverloadedError:
            store.remove(kept)
            raise
        return kept

    async def _token(self, model: ServedModel, generation: Generation, kept: Sequence) -> Token:
        begun_s, due_s = self._clock(), generation.due_s
        with self._metrics.request(model, begun_s) as record:
            if kept.gone:
                self._dataplane.check_ready()
                raise SequenceError(GONE[kept.lost])
            response = await self._response(model, generation, begun_s)
            token = generation.take(response, self._clock())
            if not token.finish:
                self._dataplane.sequences.resize(kept, generation.nbytes)
            record.response = replace(response, time_limit_ms=max(0.0, (due_s - begun_s) * MS_PER_S))
        return token

    async def _response(self, model: ServedModel, generation: Generation, now_s: float) -> Response:
        try:
            return await self._dataplane.infer(model, Call(generation.request(now_s)))
        except (DeadlineError, OverloadedError):
            return await self._dataplane.infer(model, Call(generation.late_request(self._clock())))
