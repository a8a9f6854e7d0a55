"""Bare error: ours lose their tracebacks, those of a fault stay for the log."""

from __future__ import annotations

from nested_sparse.errors import InputError
from nested_sparse.runtime.scheduling.bare_error import bare


def raised(error: Exception, cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception as caught:
            raise error from caught
    except Exception as caught:
        return caught


def test_an_error_of_ours_and_its_cause_lose_their_tracebacks() -> None:
    """The message, the type and the cause stay."""
    error, cause = InputError("x"), KeyError("y")
    assert bare(raised(error, cause)) is error
    assert (error.__traceback__, error.__cause__, cause.__traceback__) == (None, cause, None)


def test_an_unforeseen_error_keeps_its_traceback() -> None:
    """And so does its cause."""
    error, cause = RuntimeError("x"), InputError("y")
    assert bare(raised(error, cause)) is error
    assert error.__traceback__ is not None
    assert cause.__traceback__ is not None
