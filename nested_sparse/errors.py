"""Errors: every error that this package raises on purpose.

NestedSparseError
├── CheckpointError     a file is truncated, corrupt, foreign or does not nest
├── PatternError        a pattern that is not known, or does not fit   (also ValueError)
├── BudgetError         a density or budget that cannot be met         (also ValueError)
├── LevelError          a level the checkpoint does not have           (also ValueError)
├── InputError          wrong tensor names, shapes or dtypes           (also ValueError)
├── TrainingError       a training run that cannot start, resume or go on
├── ExportError         a model that cannot be exported, or disagrees with the runtime
├── KernelError         the operator library is missing or does not fit
├── BenchError          a benchmark that cannot be run, or whose outputs disagree
├── SettingsError       a file of settings or flags that say what cannot be
├── FetchError          a model, or its manifest, cannot be fetched from its address
├── OutputError         results that cannot be written to the standard output
└── ServingError
    ├── OverloadedError   the request was shed: no allowed level can meet its deadline
    ├── DeadlineError     the deadline passed before the request ran
    ├── UnavailableError  draining, or not ready yet
    ├── StuckError        the inference has run far longer than it should
    ├── OutOfMemoryError  the run did not fit in memory                (also MemoryError)
    ├── TooLargeError     the request is larger than the server takes
    ├── RepositoryError   the model directory is not there, or has no model that can be loaded
    ├── UnsupportedError  the server does not do that, or not as it was started
    ├── SequenceError     there is no such sequence, or the request before it failed
    ├── ExistsError       there is one of this name already
    ├── NotFoundError     no such model, or no such region of shared memory
    └── AccessError       the caller may not make this call
        ├── UnauthenticatedError  the call brings no valid token
        └── ForbiddenError        its rights do not cover the call
"""

from __future__ import annotations


class NestedSparseError(Exception):
    """Base of every error that this package raises on purpose."""


class CheckpointError(NestedSparseError):
    """A checkpoint file is truncated, corrupt, foreign, does not nest, or cannot be written."""


class PatternError(NestedSparseError, ValueError):
    """The sparsity pattern's name is not known, or does not fit the layer."""


class BudgetError(NestedSparseError, ValueError):
    """The densities or the budget cannot be met."""


class LevelError(NestedSparseError, ValueError):
    """The checkpoint does not have the level."""


class InputError(NestedSparseError, ValueError):
    """Names, shapes or dtypes of the given tensors do not fit the model, or a request's parameter is out of range."""


class TrainingError(NestedSparseError):
    """A training run cannot start, resume or go on."""


class ExportError(NestedSparseError):
    """The model cannot be exported, or the exported file disagrees with the model."""


class KernelError(NestedSparseError):
    """The operator library is missing, or does not fit this ONNX Runtime or CPU."""


class BenchError(NestedSparseError):
    """A benchmark cannot be run, or its outputs disagree with the reference; in both cases nothing is timed."""


class SettingsError(NestedSparseError):
    """A file of settings, or flags, that do not say how to serve."""


class FetchError(NestedSparseError):
    """A model or its manifest cannot be fetched: the link, the file server, what it sent, or the disk."""


class OutputError(NestedSparseError):
    """The results of a command cannot be written to the standard output: its disk is full, or its device is gone."""


class ServingError(NestedSparseError):
    """Base of the errors with which a server answers a request in place of a result."""


class OverloadedError(ServingError):
    """The request was shed: no allowed level can finish before its deadline.

    retry_after_ms: time, in ms, after which the queue is expected to be short enough for the request; None: never, a
        retry does not help.
    """

    def __init__(self, message: str, retry_after_ms: float | None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class DeadlineError(ServingError):
    """The deadline passed before the request ran."""


class UnavailableError(ServingError):
    """The server is draining or not ready."""


class StuckError(ServingError):
    """An inference runs far longer than it should, and may never end. The request did not cause this."""


class OutOfMemoryError(ServingError, MemoryError):
    """The run did not fit in memory; a smaller batch or a sparser level may fit."""


class TooLargeError(ServingError):
    """The request has more bytes than the server accepts."""


class RepositoryError(ServingError):
    """There is no model directory, or what it holds cannot be loaded, or not now."""


class UnsupportedError(ServingError):
    """The server does not offer what the request asks for, or not with the flags that it was started with."""


class SequenceError(ServingError):
    """The server keeps no such sequence, or not in the state that the request counts on."""


class ExistsError(ServingError):
    """There is one of this name already."""


class NotFoundError(ServingError):
    """The server has no such model, or no such region of shared memory."""


class AccessError(ServingError):
    """The caller may not make this call."""


class UnauthenticatedError(AccessError):
    """The call brings no valid token."""


class ForbiddenError(AccessError):
    """The caller is known, and its rights do not cover the call."""
