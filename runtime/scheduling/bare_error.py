"""Bare error: an answer to a client without its traceback."""

from __future__ import annotations

from nested_sparse.errors import InputError, LevelError, ServingError

ANSWERS = (InputError, LevelError, ServingError)
"""Errors that tell a client what is wrong with its request, or with the moment. All others are faults."""


def bare(error: Exception) -> Exception:
    """`error`, for a future; an answer, and the errors behind it, without a traceback.

    The functions in a traceback hold the request, and the request holds the future: with the error in it, all of them
    would wait for Python's garbage collector, and a client whose large requests are refused would fill the memory. The
    traceback of a fault, a KernelError for one, is for the log.
    """
    each: BaseException | None = error if isinstance(error, ANSWERS) else None
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error
