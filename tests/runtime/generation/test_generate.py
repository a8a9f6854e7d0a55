"""Generator and its Generation on a fake clock: texts, deadlines and levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from counting_text import INPUTS, LONGEST, OUTPUTS, STATE, CountingSession

from nested_sparse.errors import DeadlineError, InputError, LevelError, ServingError
from nested_sparse.free_size import FreeSize
from nested_sparse.runtime.generation import Generator, Token, text_model
from nested_sparse.runtime.generation.sampler import Sampler
from nested_sparse.runtime.policy.elastic import ElasticPolicy
from nested_sparse.runtime.profiling.profile import LatencyProfile
from nested_sparse.runtime.simulation import VirtualClock
from nested_sparse.tensor_spec import TensorSpec

LEVEL_MS = (1.0, 3.0, 6.0, 9.0)


class Rig:
    """A Generator on a clock that only runs and sleeps move; a run takes `slowdown` times its planted time."""

    def __init__(self) -> None:
        self.clock, self.slowdown = VirtualClock(), 1.0
        self.session = CountingSession(self._takes)
        profile = LatencyProfile((1,), [[each] for each in LEVEL_MS])
        self.generator = Generator(
            self.session, profile=profile, policy=ElasticPolicy(profile), clock=self.clock, sleep=self._sleep
        )

    def _takes(self, level: int) -> None:
        self.clock.advance_to(self.clock() + self.slowdown * LEVEL_MS[level] / 1e3)

    def _sleep(self, wait_s: float) -> None:
        self.clock.advance_to(self.clock() + wait_s)

    def tokens(
        self, prompt: str | bytes, each: Callable[[int], object] = lambda count: None, **asked: Any
    ) -> list[Token]:
        """All tokens; `each` is called before each but the first with the number of those that are there."""
        found: list[Token] = []
        for token in self.generator.generate(prompt, **asked):
            found.append(token)
            each(len(found))
        return found


def text_of(tokens: list[Token]) -> bytes:
    return b"".join(token.text for token in tokens)


def test_a_text_goes_on_byte_by_byte() -> None:
    """The prompt is one run, each token one more with its byte alone and the state of the run before."""
    rig = Rig()
    tokens = rig.tokens("abc", max_tokens=4, level=0)
    assert text_of(tokens) == b"defg"
    assert [token.finish for token in tokens] == ["", "", "", "length"]
    assert [feeds["words"].tolist() for _, feeds in rig.session.runs] == [[list(b"abc")], [[100]], [[101]], [[102]]]
    assert [feeds["begin"].tolist() for _, feeds in rig.session.runs] == [[0], [3], [4], [5]]
    assert [float(feeds["sum"][0, 0]) for _, feeds in rig.session.runs] == [0, 294, 394, 495]


def test_each_token_is_of_its_own_level() -> None:
    """The counting model adds its level, so the bytes show it."""
    rig = Rig()
    tokens = rig.tokens(b"\x00", tokens_per_s=100.0, max_tokens=30)
    steps = np.diff([0, *text_of(tokens)])
    assert [1 + token.level for token in tokens] == steps.tolist()


def test_tokens_keep_the_pace_that_is_asked_for() -> None:
    """Token k is due k periods after the arrival, and begins no earlier than the one before it is due."""
    rig = Rig()
    begun_s, ends_s = rig.clock(), []
    rig.tokens("a", lambda _: ends_s.append(rig.clock() - begun_s), tokens_per_s=50.0, max_tokens=6, level=1)
    assert ends_s == pytest.approx([0.02 * k + 0.003 for k in range(6)])


@pytest.mark.parametrize(("tokens_per_s", "level"), [(20.0, 3), (130.0, 2), (220.0, 1), (600.0, 0)])
def test_the_densest_level_that_holds_the_rate(tokens_per_s: float, level: int) -> None:
    """Once the policy has seen some tokens; none is late."""
    tokens = Rig().tokens("a", tokens_per_s=tokens_per_s, max_tokens=40)
    assert [token.level for token in tokens[20:]] == [level] * 20
    assert not any(token.late for token in tokens)


def test_the_level_falls_beside_a_co_runner_and_comes_back() -> None:
    """Runs take 2.5 times as long for a while."""
    rig = Rig()

    def each(count: int) -> None:
        rig.slowdown = 2.5 if 40 <= count < 80 else 1.0

    tokens = rig.tokens("a", each, tokens_per_s=80.0, max_tokens=160)
    assert tokens[39].level == 3
    assert max(token.level for token in tokens[60:80]) <= 1
    assert tokens[-1].level == 3
    assert not any(token.late for token in tokens[60:])


def test_a_rate_that_no_level_holds_gives_late_tokens_of_the_sparsest() -> None:
    """The text goes on, as fast as it can, and says so; when time allows, tokens are in time again."""
    rig = Rig()
    rig.slowdown = 3.0
    begun_s = rig.clock()
    tokens = rig.tokens("a", tokens_per_s=400.0, max_tokens=20)
    assert all(token.late for token in tokens[1:])
    assert {token.level for token in tokens[1:]} == {0}
    assert rig.clock() - begun_s == pytest.approx(20 * 0.003, abs=0.006)


def test_late_tokens_obey_the_lowest_accuracy() -> None:
    """A level below it is not chosen even then."""
    tokens = Rig().tokens("a", tokens_per_s=900.0, max_tokens=5, min_accuracy=0.65)
    assert [token.level for token in tokens] == [2] * 5
    assert all(token.late for token in tokens)


def test_the_time_of_the_whole_text() -> None:
    """It ends in an error when that has passed."""
    rig = Rig()
    found: list[int] = []
    with pytest.raises(DeadlineError, match="expired"):
        rig.tokens("a", found.append, tokens_per_s=100.0, max_tokens=50, timeout_ms=55.0, level=0)
    assert found == [1, 2, 3, 4, 5, 6]


def test_the_time_of_the_whole_text_does_not_wait_for_a_slow_rate() -> None:
    """The error comes when the time has passed, not when the next token would begin, and says whose time it was."""
    for timeout_ms, count in ((300.0, 1), (0.0, 0), (-5.0, 0)):
        rig = Rig()
        begun_s = rig.clock()
        with pytest.raises(DeadlineError, match=f"whole text, {timeout_ms:g} ms, passed after {count} of 3 tokens"):
            rig.tokens("a", tokens_per_s=0.001, max_tokens=3, timeout_ms=timeout_ms)
        assert rig.clock() - begun_s == pytest.approx(max(0.0, timeout_ms / 1e3))


def test_wrong_arguments_are_named() -> None:
    """By an InputError in the words of the caller."""
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"top_k": 3}, "unknown arguments .'top_k'.; expected some of prompt, tokens_per_s"),
        ({"stop": "a\ud800"}, "stop: character 1"),
        ({"timeout_ms": "soon"}, "timeout_ms: expected a number"),
    ]
    for asked, said in wrong:
        with pytest.raises(InputError, match=said):
            Rig().tokens("a", **asked)
    with pytest.raises(InputError, match="prompt: character 0"):
        Rig().tokens("\ud800")


def test_a_stop_text_ends_it() -> None:
    """Also where it comes byte by byte; not where it is in the prompt, or half of it is."""
    assert text_of(Rig().tokens("ab", max_tokens=9, level=0, stop="fg")) == b"cdefg"
    assert text_of(Rig().tokens("abc", max_tokens=4, level=0, stop=b"bc")) == b"defg"
    assert text_of(Rig().tokens("abc", max_tokens=4, level=0, stop=b"cd")) == b"defg"
    tokens = Rig().tokens("é", max_tokens=4, level=0, stop=b"\xaa")
    assert (text_of(tokens), tokens[-1].finish) == (b"\xaa", "stop")


def test_a_text_longer_than_the_state_is_read_anew() -> None:
    """Its last half room, from a fresh state: what a net sees is never more than it was trained for."""
    rig = Rig()
    tokens = rig.tokens("abcdefg", max_tokens=12, level=0)
    assert text_of(tokens) == bytes(range(ord("h"), ord("h") + 12))
    reads = [(int(feeds["begin"][0]), bytes(feeds["words"][0].tolist())) for _, feeds in rig.session.runs]
    assert reads == [
        (0, b"abcdefg"),
        (7, b"h"),
        (0, b"fghi"),
        *[(4 + index, bytes([ord("j") + index])) for index in range(4)],
        (0, b"klmn"),
        *[(4 + index, bytes([ord("o") + index])) for index in range(4)],
    ]
    assert all(begin + len(words) <= LONGEST for begin, words in reads)


def test_draws_follow_the_probabilities() -> None:
    """Of the logits over the temperature; 0 is the likeliest, a seed gives the same bytes again."""
    logits = np.full(256, -np.inf, np.float32)
    logits[[7, 9, 11]] = np.log([0.5, 0.3, 0.2]).astype(np.float32)
    assert [Sampler(0.0, seed).pick(logits) for seed in range(3)] == [7, 7, 7]
    for temperature in (1.0, 0.5):
        sampler = Sampler(temperature, 0)
        drawn = np.bincount([sampler.pick(logits) for _ in range(4000)], minlength=256)[[7, 9, 11]] / 4000
        weights = np.array([0.5, 0.3, 0.2]) ** (1 / temperature)
        np.testing.assert_allclose(drawn, weights / weights.sum(), atol=0.03)
    one, other = Sampler(1.0, 5), Sampler(1.0, 5)
    assert [one.pick(logits) for _ in range(50)] == [other.pick(logits) for _ in range(50)]
    assert Sampler(1e-300, 0).pick(logits) == 7
    for wrong in (np.full(256, np.nan), np.full(256, -np.inf), np.r_[np.inf, np.zeros(255)]):
        with pytest.raises(ServingError, match="not finite"):
            Sampler(1.0, 0).pick(wrong.astype(np.float32))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"prompt": ""}, "at least one byte"),
        ({"prompt": b"123456789"}, "at most 8 bytes, which the model reads at once, got 9"),
        ({"prompt": 5}, "prompt: expected bytes, got 5"),
        ({"tokens_per_s": 0.0}, "tokens_per_s"),
        ({"tokens_per_s": float("inf")}, "tokens_per_s"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"seed": -1}, "seed"),
        ({"stop": "x" * 257}, "stop"),
        ({"min_accuracy": 0.99}, "min_accuracy"),
        ({"top_k": 3}, "top_k"),
    ],
)
def test_a_wrong_request_is_refused_at_once(asked: dict[str, Any], said: str) -> None:
    """Before the first token is asked for."""
    with pytest.raises(InputError, match=said):
        Rig().generator.generate(**{"prompt": "a", **asked})


def test_a_wrong_level_is_refused_at_once() -> None:
    """By its own error."""
    with pytest.raises(LevelError, match="9"):
        Rig().generator.generate("a", level=9)


def test_other_models_are_no_text_models() -> None:
    """One without a state, of other logits, of a length without a bound."""
    session = CountingSession()
    assert text_model(session.inputs, session.outputs, session.state) is not None
    assert text_model(session.inputs, session.outputs, {}) is None
    assert text_model(session.inputs, session.outputs[1:], session.state) is None
    assert text_model(session.inputs[:1], session.outputs[:1], {}) is None
    with pytest.raises(InputError, match=r"expected an open Session, got a path; give Session\('a\.safetensors'\)"):
        Generator("a.safetensors")  # type: ignore[arg-type]
    session.state = {"sum_out": "sum"}
    with pytest.raises(InputError, match="continues no texts"):
        Generator(session)


def test_a_state_gets_room_as_the_text_grows() -> None:
    """In steps, behind what is there, up to the most; a state without that size stays."""
    batch, room = FreeSize("batch", batch=True), FreeSize("room", most=70)
    keys = TensorSpec("keys", "float32", (None, 2, None, 3), (2, 2, 32, 3), (batch, None, room, None))
    outputs = [*OUTPUTS, replace(keys, name="keys_out")]
    model = text_model([*INPUTS, keys], outputs, {**STATE, "keys_out": "keys"})
    assert model is not None
    assert (model.room, model.longest) == (room, LONGEST)
    model = replace(model, longest=70)
    state = model.first_state()
    assert state["keys"].shape == (1, 2, 1, 3)
    shapes = []
    for size in (5, 32, 33, 64, 65, 70):
        before = np.random.default_rng(size).random(state["keys"].shape).astype(np.float32)
        grown = model.with_room({**state, "keys": before}, size)
        shapes.append(grown["keys"].shape[2])
        np.testing.assert_array_equal(grown["keys"][:, :, : before.shape[2]], before)
        assert not grown["keys"][:, :, before.shape[2] :].any()
        assert grown["sum"] is state["sum"]
        state = grown
    assert shapes == [32, 32, 64, 64, 70, 70]
    other = replace(keys, free=(batch, None, room, replace(room, name="other")))
    assert text_model([*INPUTS, other], outputs, {**STATE, "keys_out": "keys"}) is None
