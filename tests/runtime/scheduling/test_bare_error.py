"""Bare error: answers lose their tracebacks, those of a fault stay for the log."""

from __future__ import annotations

import pytest

from nested_sparse.errors import InputError, KernelError, LevelError, UnavailableError
from nested_sparse.runtime.scheduling.bare_error import bare


def raised(error: Exception, cause: Exception) -> Exception:
    try:
        try:
            raise cause
        except Exception as caught:
            raise error from caught
    except Exception as caught:
        return caught


@pytest.mark.parametrize("kind", [InputError, LevelError, UnavailableError])
def test_an_answer_and_its_cause_lose_their_tracebacks(kind: type[Exception]) -> None:
    """The message, the type and the cause stay."""
    error, cause = kind("x"), KeyError("y")
    assert bare(raised(error, cause)) is error
    assert (error.__traceback__, error.__cause__, cause.__traceback__) == (None, cause, None)


@pytest.mark.parametrize("kind", [RuntimeError, KernelError])
def test_a_fault_keeps_its_traceback(kind: type[Exception]) -> None:
    """And so does its cause: the server's log has both."""
    error, cause = kind("x"), InputError("y")
    assert bare(raised(error, cause)) is error
    assert error.__traceback__ is not None
    assert cause.__traceback__ is not None
