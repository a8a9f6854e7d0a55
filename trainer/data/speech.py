"""Speech: the spoken words of the Free Spoken Digit Dataset as log-mel spectrograms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nested_sparse.errors import TrainingError
from nested_sparse.options import unknown

from .files import check_array, read_arrays

RATE_HZ = 8000
CLIP_SAMPLES = RATE_HZ
"""Samples of a clip: every clip is padded with silence, or cut, to one second."""
WINDOW_SAMPLES = RATE_HZ * 25 // 1000
HOP_SAMPLES = RATE_HZ * 10 // 1000
FFT_SAMPLES = 512
"""Samples of a transform, more than the window's: bins are 16 Hz apart, so each of the lowest mel bands, which are
33 Hz apart, contains a bin."""
MELS = 40
DYNAMIC_RANGE = 1e-5
"""Share of a clip's highest power (50 dB below it) under which power counts as silence."""
TEST_INDICES = 5
"""Number of test recordings of each speaker and digit: 0 to 4, by the data set's own rule."""
_OWN_SPLIT = "recordings of index 0 to 4 (test) and above"
CHUNK_CLIPS = 250
"""Number of clips in one transform, to bound memory."""


@dataclass(frozen=True, slots=True)
class LabelledSpectra:
    """Spectrograms with classes. spectra: float32 (n, mels, T), log power, mean 0 per clip. labels: int64 (n,)."""

    spectra: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> Tensor:
        """The spectra."""
        return self.spectra


def load_fsdd(path: str | Path, *, test_speakers: Sequence[str] = ()) -> tuple[LabelledSpectra, LabelledSpectra]:
    """Training and test spectrograms (n, 40, 100) of the spoken digits in the .npz file `path`.

    The file's arrays: codes uint8, mu-law, all clips end to end; lut int16 (256,), a sample for each code; offsets
    (n + 1,), begin and end of the clips; label (n,), 0 to 9; index (n,), the recording's number. The test set is
    the recordings 0 to 4.
    test_speakers: names of the speakers whose clips are the test set instead; the file then has also speakers, their
    names, and speaker (n,), the number of each clip's. Raises TrainingError.
    """
    path = Path(path)
    arrays = _read(path)
    labels = torch.from_numpy(arrays["label"].astype(np.int64))
    by_index = arrays["index"] < TEST_INDICES
    test = torch.from_numpy(_spoken_by(path, test_speakers, len(labels)) if test_speakers else by_index)
    for name, part in (("test", test), ("training", ~test)):
        if not part.any():
            split = f"clips of {', '.join(test_speakers)} (test) and of others" if test_speakers else _OWN_SPLIT
            raise TrainingError(f"{path}: expected {split}; no {name} clip is there")
    clips = decoded_clips(arrays["codes"], arrays["lut"], arrays["offsets"])
    spectra = log_mel(torch.from_numpy(clips))  # takes seconds, so it comes after every check
    return LabelledSpectra(spectra[~test], labels[~test]), LabelledSpectra(spectra[test], labels[test])


def decoded_clips(codes: NDArray[np.uint8], lut: NDArray[np.int16], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, CLIP_SAMPLES) float32 in [-1, 1): the table's sample for each code, then silence."""
    clips = np.zeros((len(offsets) - 1, CLIP_SAMPLES), np.float32)
    for clip, begin, end in zip(clips, offsets, offsets[1:], strict=False):
        samples = lut[codes[begin : min(end, begin + CLIP_SAMPLES)]]
        clip[: len(samples)] = samples / np.float32(32768)
    return clips


def log_mel(clips: Tensor) -> Tensor:
    """(n, samples) clips of 8 kHz to (n, MELS, samples // HOP_SAMPLES): log of the power in each mel band, mean 0.

    Hann windows of 25 ms every 10 ms, the first centred on the first sample.
    """
    return torch.cat([_log_mel(part) for part in torch.split(clips, CHUNK_CLIPS)])


def _log_mel(clips: Tensor) -> Tensor:
    window = torch.hann_window(WINDOW_SAMPLES)
    transformed = torch.stft(
        clips, FFT_SAMPLES, HOP_SAMPLES, WINDOW_SAMPLES, window, pad_mode="constant", return_complex=True
    )
    power = transformed[..., : clips.shape[1] // HOP_SAMPLES].abs().square()
    bands = torch.from_numpy(mel_bank(MELS, FFT_SAMPLES, RATE_HZ)).float() @ power
    floor = DYNAMIC_RANGE * bands.amax(dim=(1, 2), keepdim=True)
    logs = torch.maximum(bands, floor.clamp_min(1e-12)).log()
    return logs - logs.mean(dim=(1, 2), keepdim=True)


def mel_bank(bands: int, fft_samples: int, rate_hz: int) -> NDArray[np.float64]:
    """(bands, fft_samples // 2 + 1) weights: overlapping triangles, equally wide in mel, from 0 to half the rate.

    Each is 1 at its centre and 0 at its neighbours' centres. mel(f) = 2595 log10(1 + f / 700), f in Hz.
    """
    highest_mel = 2595 * np.log10(1 + rate_hz / 2 / 700)
    corners_hz = 700 * (10 ** (np.linspace(0, highest_mel, bands + 2) / 2595) - 1)
    bins_hz = np.arange(fft_samples // 2 + 1) * rate_hz / fft_samples
    below, centre, above = corners_hz[:-2, None], corners_hz[1:-1, None], corners_hz[2:, None]
    rising, falling = (bins_hz - below) / (centre - below), (above - bins_hz) / (above - centre)
    bank: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    return bank


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays, checked. Raises TrainingError."""
    arrays = read_arrays(path, ("codes", "lut", "offsets", "label", "index"))
    _check(path, arrays)
    return arrays


def _spoken_by(path: Path, names: Sequence[str], clips: int) -> NDArray[np.bool_]:
    """(clips,) whether a speaker of `names` speaks the clip."""
    arrays = read_arrays(path, ("speaker", "speakers"))
    check_array(path, "speaker", arrays["speaker"], "iu", (clips,))
    known = [str(name) for name in arrays["speakers"].reshape(-1)]
    for name in names:
        if name not in known:
            raise TrainingError(f"{path}: speakers: {unknown(name, known)}")
    return np.isin(arrays["speaker"], [known.index(name) for name in names])


def _check(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    codes, offsets = arrays["codes"], arrays["offsets"]
    clips = max(0, offsets.size - 1)
    shapes = {"codes": codes.shape, "lut": (256,), "offsets": (clips + 1,), "label": (clips,), "index": (clips,)}
    shapes["codes"] = (codes.size,)
    for name, kinds in {"codes": "u", "lut": "i", "offsets": "iu", "label": "iu", "index": "iu"}.items():
        array = arrays[name]
        if array.shape != shapes[name] or array.dtype.kind not in kinds or (name == "codes" and array.itemsize != 1):
            kind = {"codes": "uint8", "lut": "int16"}.get(name, "whole numbers")
            raise TrainingError(
                f"{path}: {name}: expected {kind} of shape {shapes[name]}, got {array.dtype} {array.shape}"
            )
    if not clips or offsets[0] != 0 or offsets[-1] != codes.size or (np.diff(offsets.astype(np.int64)) <= 0).any():
        raise TrainingError(f"{path}: offsets: expected to rise from 0 to {codes.size}, the number of codes")
