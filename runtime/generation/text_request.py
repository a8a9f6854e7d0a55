"""TextRequest: a text that is to be continued, and how."""

from __future__ import annotations

from dataclasses import dataclass

from nested_sparse.argument import finite, real, shown, whole
from nested_sparse.errors import InputError

MOST_TOKENS = 65536
"""Most tokens of one request: a client that wants more goes on with the end of the text."""
DEFAULT_TOKENS = 64
LEAST_RATE = 0.001
MOST_STOP_BYTES = 256
MOST_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class TextRequest:
    """A text and its continuation. Raises InputError for a value that is out of range.

    prompt: UTF-8, or any bytes; at least one. tokens_per_s: the rate that the tokens are to keep; None: the scheduler's
    default SLO is the time of each. max_tokens: number of tokens, which are bytes, at most.
    temperature: 0 takes the likeliest byte, 1 draws by the model's probabilities. seed: of the draws; None: any.
    stop: the continuation ends behind the first of this text; b"": only max_tokens end it.
    level, min_accuracy, priority, client: as of Request, of each token. timeout_ms: of the whole continuation.
    """

    prompt: bytes
    tokens_per_s: float | None = None
    max_tokens: int = DEFAULT_TOKENS
    temperature: float = 0.0
    seed: int | None = None
    stop: bytes = b""
    level: int | None = None
    min_accuracy: float | None = None
    priority: int | None = None
    timeout_ms: float | None = None
    client: str = ""

    def __post_init__(self) -> None:
        for name in ("prompt", "stop"):
            if not isinstance(getattr(self, name), bytes):
                raise InputError(f"{name}: expected bytes, got {shown(getattr(self, name))}")
        if not self.prompt:
            raise InputError("prompt: expected at least one byte, got none")
        if len(self.stop) > MOST_STOP_BYTES:
            raise InputError(f"stop: expected at most {MOST_STOP_BYTES} bytes, got {len(self.stop)}")
        if self.tokens_per_s is not None:
            finite("tokens_per_s", self.tokens_per_s, LEAST_RATE)
        whole("max_tokens", self.max_tokens, 1, MOST_TOKENS)
        finite("temperature", self.temperature, 0.0)
        if self.seed is not None:
            whole("seed", self.seed, 0, MOST_SEED)
        if self.timeout_ms is not None:
            real("timeout_ms", self.timeout_ms)
