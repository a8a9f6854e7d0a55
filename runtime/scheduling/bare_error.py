"""Bare error: an error of ours without its traceback."""

from __future__ import annotations

from nested_sparse.errors import NestedSparseError


def bare(error: Exception) -> Exception:
    """`error`, for a future; one of ours, and those behind it, without a traceback.

    The functions in a traceback hold the request, and the request holds the future: with the error in it, all of them
    would wait for Python's garbage collector, and a client whose large requests are refused would fill the memory. Our
    errors say in words where they come from; an unforeseen one is a fault, and its traceback is for the log.
    """
    each: BaseException | None = error if isinstance(error, NestedSparseError) else None
    while each is not None:
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error
