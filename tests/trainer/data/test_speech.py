"""Speech: log-mel spectrograms, the files of spoken digits, and Jasper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nested_sparse.errors import TrainingError
from nested_sparse.trainer import nest
from nested_sparse.trainer.data import speech
from nested_sparse.trainer.data.images import Batches, delayed
from nested_sparse.trainer.data.speech import LabelledSpectra, decoded_clips, load_fsdd, log_mel, mel_bank
from nested_sparse.trainer.zoo import Jasper
from support import DATA

FSDD = DATA / "fsdd" / "fsdd.npz"


def hz_of_mel(mel: float) -> float:
    """The inverse of mel(f) = 2595 log10(1 + f / 700)."""
    return 700 * (10 ** (mel / 2595) - 1)


def triangle(band: int, bands: int, hz: float, rate_hz: int) -> float:
    """The weight of one frequency in one band by the definition: from 0 up to 1 at the centre, then down to 0."""
    step = 2595 * np.log10(1 + rate_hz / 2 / 700) / (bands + 1)
    low, centre, high = (hz_of_mel((band + k) * step) for k in (0, 1, 2))
    if not low < hz < high:
        return 0.0
    return (hz - low) / (centre - low) if hz <= centre else (high - hz) / (high - centre)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 50), st.sampled_from([64, 256, 512]), st.sampled_from([8000, 16000]))
def test_mel_bank_is_triangles(bands: int, fft_samples: int, rate_hz: int) -> None:
    """Every weight equals that of a loop over bands and bins; neighbours add up to 1 between their centres."""
    bank = mel_bank(bands, fft_samples, rate_hz)
    bins_hz = [k * rate_hz / fft_samples for k in range(fft_samples // 2 + 1)]
    expected = [[triangle(band, bands, hz, rate_hz) for hz in bins_hz] for band in range(bands)]
    np.testing.assert_allclose(bank, expected, atol=1e-9)
    step = 2595 * np.log10(1 + rate_hz / 2 / 700) / (bands + 1)
    between = (np.array(bins_hz) >= hz_of_mel(step)) & (np.array(bins_hz) <= hz_of_mel(bands * step))
    np.testing.assert_allclose(bank.sum(axis=0)[between], 1)


def test_every_band_that_we_use_sees_a_bin() -> None:
    """At 8 kHz, 512 samples and 40 bands no band is empty."""
    assert (mel_bank(40, 512, 8000).max(axis=1) > 0.3).all()


@settings(deadline=None, max_examples=15)
@given(st.floats(150, 3700))
def test_a_tone_peaks_in_its_band(hz: float) -> None:
    """In every frame of a pure tone, the loudest band is one whose triangle contains the tone."""
    tone = torch.sin(2 * torch.pi * hz * torch.arange(8000) / 8000)
    spectrum = log_mel(tone[None])[0]
    assert spectrum.shape == (40, 100)
    loudest = set(spectrum[:, 5:95].argmax(dim=0).tolist())
    weights = [triangle(band, 40, hz, 8000) for band in range(40)]
    near = {band for band in range(40) if weights[band] > 0.25}
    assert loudest <= near


def test_log_mel_is_its_definition() -> None:
    """Power of the windowed Fourier transform at every hop, in mel bands, floored, in logs, minus the clip's mean."""
    clip = np.random.default_rng(0).standard_normal(8000) * np.linspace(0, 1, 8000)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 200)
    padded = np.pad(clip, 256)
    frames = []
    for frame in range(100):
        piece = padded[frame * 80 : frame * 80 + 512].copy()
        piece *= np.pad(window, 156)  # the window in the middle of the transform
        frames.append(np.abs(np.fft.rfft(piece)) ** 2)
    bands = mel_bank(40, 512, 8000) @ np.array(frames).T
    logs = np.log(np.maximum(bands, 1e-5 * bands.max()))
    got = log_mel(torch.from_numpy(clip[None].astype(np.float32)))[0].numpy()
    np.testing.assert_allclose(got, logs - logs.mean(), atol=2e-3)


def mu_law_table() -> NDArray[np.int16]:
    """A table like the data set's: 256 samples, mu = 255, to 16 bits."""
    y = np.linspace(-1, 1, 256)
    return np.round(np.sign(y) * (256 ** np.abs(y) - 1) / 255 * 32767).astype(np.int16)


def arrays_of_a_set(clips: int = 12) -> dict[str, np.ndarray]:
    """Arrays of clips of random codes, of 500 to 12000 samples, with index 0 to clips - 1."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(500, 12000, clips)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return {
        "codes": rng.integers(0, 256, int(offsets[-1])).astype(np.uint8),
        "lut": mu_law_table(),
        "offsets": offsets,
        "label": (np.arange(clips) % 10).astype(np.uint8),
        "index": np.arange(clips).astype(np.uint8),
    }


def test_codes_are_decoded_by_the_table() -> None:
    """Each sample is the table's, over 2^15; short clips are padded with silence, long ones are cut."""
    arrays = arrays_of_a_set()
    clips = decoded_clips(arrays["codes"], arrays["lut"], arrays["offsets"])
    assert clips.shape == (12, 8000)
    assert clips.dtype == np.float32
    for clip, begin, end in zip(clips, arrays["offsets"], arrays["offsets"][1:], strict=False):
        count = min(8000, end - begin)
        expected = [int(arrays["lut"][code]) / 32768 for code in arrays["codes"][begin : begin + count]]
        np.testing.assert_array_equal(clip[:count], np.float32(expected))
        assert not clip[count:].any()


def test_a_set_is_split_by_index(tmp_path: Path) -> None:
    """Recordings 0 to 4 are the test set; every clip has its own spectrum, of mean 0."""
    arrays = arrays_of_a_set()
    np.savez(tmp_path / "set.npz", **arrays)
    train, test = load_fsdd(tmp_path / "set.npz")
    assert test.labels.tolist() == [0, 1, 2, 3, 4]
    assert train.labels.tolist() == [5, 6, 7, 8, 9, 0, 1]
    assert train.spectra.shape == (7, 40, 100)
    assert train.spectra.dtype == torch.float32
    assert train.spectra.mean(dim=(1, 2)).abs().max() < 1e-4
    clips = decoded_clips(arrays["codes"], arrays["lut"], arrays["offsets"])
    torch.testing.assert_close(test.spectra[3], log_mel(torch.from_numpy(clips[3:4]))[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": None}, "lacks codes"),
        ({"lut": np.zeros(255, np.int16)}, r"lut: expected int16 of shape \(256,\), got int16 \(255,\)"),
        ({"codes": np.zeros(5, np.float32)}, "codes: expected uint8"),
        ({"label": np.zeros(3, np.uint8)}, r"label: expected whole numbers of shape \(12,\), got uint8 \(3,\)"),
        ({"offsets": np.arange(13)}, "offsets: expected to rise from 0"),
        ({"offsets": np.zeros(0, np.int32)}, "expected"),
        ({"index": np.full(12, 9)}, "no test clip"),
        ({"index": np.zeros(12, np.uint8)}, "no training clip"),
    ],
)
def test_malformed_sets_are_errors(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    """The error has the file, the array, the expected and the found value."""
    arrays = {**arrays_of_a_set(), **change}
    path = tmp_path / "set.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(TrainingError, match=message) as caught:
        load_fsdd(path)
    assert str(path) in str(caught.value)


def test_faults_of_the_split_are_found_before_the_spectra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spectra take seconds: a speaker who is not there, and a split without a clip."""
    monkeypatch.setattr(speech, "log_mel", lambda clips: pytest.fail("the spectra were made first"))
    path = tmp_path / "set.npz"
    speakers = {"speakers": np.array(["ann", "bob"]), "speaker": np.arange(12) % 2}
    np.savez(path, **{**arrays_of_a_set(), **speakers, "index": np.full(12, 9)})
    with pytest.raises(TrainingError, match=r"speakers: there is no 'nobody'; .*ann, bob"):
        load_fsdd(path, test_speakers=["nobody"])
    with pytest.raises(TrainingError, match="no test clip"):
        load_fsdd(path)


def test_files_that_are_no_sets_are_errors(tmp_path: Path) -> None:
    """Missing, foreign and truncated files, and a plain .npy."""
    path = tmp_path / "set.npz"
    with pytest.raises(TrainingError, match="not a readable"):
        load_fsdd(path)
    np.savez(path, **arrays_of_a_set())
    good = path.read_bytes()
    np.save(tmp_path / "plain.npy", np.zeros(3))
    for content in (b"", b"no zip", good[:-300], (tmp_path / "plain.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match="not a readable"):
            load_fsdd(path)


@pytest.mark.skipif(not FSDD.is_file(), reason="the Free Spoken Digits lie outside the repository, in ../shared/data")
def test_the_spoken_digits_are_as_documented() -> None:
    """The split is the archive's own `test`; each class and the first clip's samples are as in its README."""
    with np.load(FSDD) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.testing.assert_array_equal(arrays["index"] < 5, arrays["test"])
    first = slice(*arrays["offsets"][:2])
    clips = decoded_clips(arrays["codes"], arrays["lut"], arrays["offsets"][:2])
    expected = arrays["lut"][arrays["codes"][first]].astype(np.float32)
    np.testing.assert_array_equal(clips[0][: len(expected)] * 32768, expected)
    train, test = load_fsdd(FSDD)
    assert torch.bincount(train.labels).tolist() == [270] * 10
    assert torch.bincount(test.labels).tolist() == [30] * 10


def test_lines_move_in_time() -> None:
    """Positive is later; the edge frame fills the gap; bands do not move; labels stay with their clips."""
    spectra = torch.arange(12.0).reshape(1, 2, 6).expand(3, 2, 6)
    moved = delayed(spectra, np.array([2, 0, -1]))
    assert moved[0].tolist() == [[0, 0, 0, 1, 2, 3], [6, 6, 6, 7, 8, 9]]
    assert torch.equal(moved[1], spectra[1])
    assert moved[2].tolist() == [[1, 2, 3, 4, 5, 5], [7, 8, 9, 10, 11, 11]]
    data = LabelledSpectra(torch.arange(40.0).reshape(40, 1, 1).expand(40, 3, 8), torch.arange(40))
    batches = Batches(data, 8, shift_frames=3, samples=24)
    assert len(batches(0)) == 3
    for inputs, labels in batches(0):
        assert torch.equal(inputs[:, 0, 0].long(), labels)


def test_jasper_has_the_size_it_says() -> None:
    """It has 0.55 million weights and 57 MFLOP for 100 frames, takes any number of frames, and its 1-D layers nest."""
    model = Jasper().eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(0.55e6, rel=0.02)
    counted = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv1d):
            module.register_forward_hook(lambda conv, _, y: counted.append(2 * conv.weight.numel() * y.shape[-1]))
    assert model(torch.zeros(2, 40, 100)).shape == (2, 10)
    assert sum(counted) == pytest.approx(57e6, rel=0.05)
    assert model(torch.zeros(1, 40, 37)).shape == (1, 10)
    net = nest(Jasper(width=8, mels=5), densities=(0.2, 0.6))
    assert set(net.dense_layers()) == set()
    assert len(net.nested_layers()) == 1 + 3 * 3 + 2 + 1
