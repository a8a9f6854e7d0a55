"""Generation from end to end: a small GPT, its file that takes a text piece by piece, texts from it, and its server."""

from __future__ import annotations

import queue
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nested_sparse.runtime import Generator, LatencyProfile, Session, generate
from nested_sparse.serving.bench.serving.server_process import running_server
from nested_sparse.trainer import NestedModel, export, nest
from nested_sparse.trainer.zoo import GPT

LONGEST, DEPTH = 40, 2
ROOM = 12
"""Of the state where pieces are fed by hand; less than the net's longest."""
LEVELS = 3
EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "fashion-mnist.safetensors"
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> tuple[NestedModel, Path]:
    """The net, with weights that make its levels differ, and its file."""
    torch.manual_seed(1)
    model = GPT(width=16, depth=DEPTH, heads=2, longest=LONGEST)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    net = nest(model.eval(), densities=(0.1, 0.4, 0.8), pattern="block4x1")
    return net, export(net, path=tmp_path_factory.mktemp("gpt") / "gpt.safetensors", **model.stepwise())


@pytest.fixture(scope="module")
def session(gpt: tuple[NestedModel, Path]) -> Iterator[Session]:
    """The file, open."""
    with Session(gpt[1], threads=1) as it:
        yield it


def whole(net: NestedModel, level: int, words: Sequence[int]) -> np.ndarray:
    """Logits (T, 256) of the net without a cache."""
    net.set_level(level)
    with torch.inference_mode():
        return net(torch.tensor([list(words)]))[0].numpy()  # type: ignore[no-any-return]


class TorchSteps:
    """The net with a cache, in torch: one text, whose level may change from piece to piece."""

    def __init__(self, net: NestedModel, room: int = ROOM) -> None:
        self._net, shape = net, (1, 2, room, 8)
        self._begin = torch.zeros(1, dtype=torch.int64)
        self._past = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(DEPTH)]

    def step(self, level: int, words: Sequence[int]) -> np.ndarray:
        """Logits (T, 256) of the next words."""
        self._net.set_level(level)
        with torch.inference_mode():
            logits, self._begin, self._past = self._net(torch.tensor([list(words)]), self._begin, self._past)
        return logits[0].numpy()  # type: ignore[no-any-return]


class FileSteps:
    """The same by the file."""

    def __init__(self, session: Session, room: int = ROOM) -> None:
        self._session = session
        states = [spec for spec in session.inputs if spec.name != "words"]
        self.state = {spec.name: np.zeros(spec.sized(1, {"room": room}), spec.dtype) for spec in states}

    def step(self, level: int, words: Sequence[int]) -> np.ndarray:
        """Logits (T, 256) of the next words."""
        outputs = self._session.run({"words": np.array([list(words)]), **self.state}, level)
        self.state = {taken: outputs[given] for given, taken in self._session.state.items()}
        return outputs["logits"][0]


def pieces(words: Sequence[int], sizes: Sequence[int]) -> list[Sequence[int]]:
    ends = np.cumsum(sizes).tolist()
    assert ends[-1] == len(words)
    return [words[end - size : end] for end, size in zip(ends, sizes, strict=True)]


WORDS = [5, 9, 250, 9, 77, 31, 5, 128, 0, 64, 3, 18]


@pytest.mark.parametrize("sizes", [[1] * ROOM, [5, 1, 1, 4, 1], [ROOM], [1, 11]])
@pytest.mark.parametrize("level", range(LEVELS))
def test_pieces_give_what_the_whole_text_gives(gpt: Any, session: Session, level: int, sizes: list[int]) -> None:
    """At each level, however the text is cut: the file and torch with a cache equal the net without one."""
    net, _ = gpt
    expected = whole(net, level, WORDS)
    for steps in (TorchSteps(net), FileSteps(session)):
        got = [steps.step(level, piece) for piece in pieces(WORDS, sizes)]
        np.testing.assert_allclose(np.concatenate(got), expected, **CLOSE)


def test_the_level_may_change_from_token_to_token(gpt: Any, session: Session) -> None:
    """The file equals torch with that level's weights at each step, on the keys and values that other levels left."""
    net, _ = gpt
    torch_steps, file_steps = TorchSteps(net), FileSteps(session)
    order = [2, 0, 1, 2, 2, 0, 0, 1, 2, 1]
    last: list[np.ndarray] = []
    for level, piece in zip(order, pieces(WORDS, [3, *[1] * 9]), strict=True):
        expected = torch_steps.step(level, piece)
        np.testing.assert_allclose(file_steps.step(level, piece), expected, **CLOSE)
        last.append(expected)
    alone = whole(net, order[-1], WORDS)[-1]
    assert not np.allclose(last[-1][-1], alone, **CLOSE), "the levels before left nothing, so nothing was tested"


def test_a_text_longer_than_the_room_goes_round(gpt: Any, session: Session) -> None:
    """The ring: old words make way; a piece may cross its end. By the file as by torch."""
    torch_steps, file_steps = TorchSteps(gpt[0]), FileSteps(session)
    words = [*WORDS, *WORDS[::-1], *WORDS]
    for index, piece in enumerate(pieces(words, [7, 1, 3, 5, 1, 1, 6, 1, 1, 10])):
        level = index % LEVELS
        np.testing.assert_allclose(file_steps.step(level, piece), torch_steps.step(level, piece), **CLOSE)


def test_texts_at_different_places_run_together(gpt: Any, session: Session) -> None:
    """One run of three texts of unequal pasts: each row is what the text alone gives."""
    assert session.rows == "independent"
    texts = [FileSteps(session) for _ in range(3)]
    for text, size in zip(texts, (2, 5, 11), strict=True):
        text.step(1, WORDS[:size])
    joined = {name: np.concatenate([text.state[name] for text in texts]) for name in texts[0].state}
    outputs = session.run({"words": np.array([[7], [8], [9]]), **joined}, 2)
    for row, text in enumerate(texts):
        np.testing.assert_allclose(outputs["logits"][row], text.step(2, [7 + row]), **CLOSE)


def test_all_linear_layers_are_nested(gpt: Any) -> None:
    """The output layer, too, though it shares its weight with the embedding."""
    net, _ = gpt
    names = [name for name, module in GPT(depth=DEPTH).named_modules() if isinstance(module, torch.nn.Linear)]
    assert sorted(net.nested_layers()) == sorted(names)
    assert "head" in names


def assert_greedy(net: NestedModel, levels: Sequence[int], prompt: bytes, text: bytes) -> None:
    """Each byte of `text` is the likeliest one behind those before it, by torch at that byte's level.

    This is the reference of a Generator. Where two bytes are equally likely but for rounding, either will do.
    """
    steps, read, unread, held = TorchSteps(net, LONGEST), list(prompt), list(prompt), 0
    assert len(text) == len(levels)
    for level, byte in zip(levels, text, strict=True):
        logits = steps.step(level, unread)[-1]
        np.testing.assert_allclose(logits[byte], logits.max(), **CLOSE)
        read.append(byte)
        held += len(unread)
        unread = read[-1:]
        if held + 1 > LONGEST:
            steps, held, unread = TorchSteps(net, LONGEST), 0, read[-(LONGEST // 2) :]


def planted(session: Session) -> Generator:
    """A Generator of planted times, which no run here comes near."""
    return Generator(session, profile=LatencyProfile((1,), [[0.01], [0.02], [0.03]]))


@pytest.mark.parametrize("level", range(LEVELS))
def test_greedy_text_is_torchs_token_by_token(gpt: Any, session: Session, level: int) -> None:
    """Also where the state gets more room, and where the text no longer fits into the most that there is."""
    tokens = list(planted(session).generate("A man", max_tokens=60, level=level, tokens_per_s=1e6))
    assert [token.level for token in tokens] == [level] * 60
    assert_greedy(gpt[0], [level] * 60, b"A man", b"".join(token.text for token in tokens))


def test_a_text_of_many_levels_is_torchs_with_those_levels(gpt: Any, session: Session) -> None:
    """Each token by the level that it says."""
    generator, levels = planted(session), []
    text = b"A man"
    net, _ = gpt
    for level in (2, 0, 1):
        token = next(generator.generate(text, level=level, tokens_per_s=1e6))
        logits = whole(net, level, text)[-1]
        np.testing.assert_allclose(logits[token.text[0]], logits.max(), **CLOSE)
        text += token.text
        levels.append(token.level)
    assert levels == [2, 0, 1]


def test_generate_measures_and_writes(gpt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a session alone, with what it measures kept for the next time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    net, path = gpt
    with Session(path, threads=1) as session:
        tokens = list(generate(session, "Two", tokens_per_s=200.0, max_tokens=6, stop=b"\x00\x00\x00"))
    assert_greedy(net, [token.level for token in tokens], b"Two", b"".join(token.text for token in tokens))
    assert any(tmp_path.rglob("*.json"))


@pytest.fixture(scope="module")
def address(gpt: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server process of the text model and of a plain one."""
    shutil.copy(EXAMPLE, path := tmp_path_factory.mktemp("plain") / "plain.safetensors")
    with running_server(gpt[1], [str(path), "--profile-cache", "off", "--slo-ms", "60000"]) as server:
        yield server.address


def test_two_texts_and_a_plain_model_share_a_server(gpt: Any, address: str) -> None:
    """By unmodified tritonclient: each text is torch's with the levels that its tokens name.

    A token whose level fell while it ran is of two levels; the text is compared up to it.
    """
    triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
    answers: queue.Queue[Any] = queue.Queue()
    asked = {"first": (b"A man", {}), "second": (b"Two dogs", {"level": 1}), "third": ("é".encode(), {"level": 2})}
    with triton.InferenceServerClient(address) as client, triton.InferenceServerClient(address) as other:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for name, (prompt, parameters) in asked.items():
            given = triton.InferInput("text_input", [1], "BYTES")
            given.set_data_from_numpy(np.array([prompt], object))
            client.async_stream_infer(
                "gpt", [given], request_id=name, parameters={"max_tokens": 25, "tokens_per_s": 50.0, **parameters}
            )
        image = triton.InferInput("input", [1, 1, 28, 28], "FP32")
        image.set_data_from_numpy(np.zeros((1, 1, 28, 28), np.float32))
        for _ in range(20):
            assert other.infer("plain", [image]).as_numpy("output").shape == (1, 10)
        texts: dict[str, bytes] = dict.fromkeys(asked, b"")
        levels: dict[str, list[int]] = {name: [] for name in asked}
        pure: dict[str, int] = {}
        ended: set[str] = set()
        while len(ended) < len(asked):
            result, error = answers.get(timeout=60.0)
            assert error is None, error
            response = result.get_response()
            texts[response.id] += result.as_numpy("text_output")[0]
            if "started_level" in response.parameters:
                pure.setdefault(response.id, len(levels[response.id]))
            levels[response.id].append(response.parameters["level"].int64_param)
            if response.parameters["triton_final_response"].bool_param:
                ended.add(response.id)
        client.stop_stream()
    for name, (prompt, parameters) in asked.items():
        assert len(levels[name]) == 25
        assert set(levels[name]) <= {parameters.get("level", 0), *range(0 if parameters else LEVELS)}
        count = pure.get(name, 25)
        assert count == 25 or not parameters
        assert_greedy(gpt[0], levels[name][:count], prompt, texts[name][:count])
