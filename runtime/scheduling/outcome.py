"""Outcome: the answer to a request that runs in the thread that brought it, and that no other thread waits for."""

from __future__ import annotations

from nested_sparse.errors import StuckError

from .request import Response


class Outcome:
    """Takes an answer as a future does, without the lock and the condition of one, which cost a twentieth of a call."""

    __slots__ = ("_error", "_response")

    def __init__(self) -> None:
        self._response: Response | None = None
        self._error: Exception | None = None

    def set_result(self, response: Response) -> None:
        """The request was answered."""
        self._response = response

    def set_exception(self, error: Exception) -> None:
        """The request failed."""
        self._error = error

    def taken(self) -> Response:
        """The answer. Raises the error in its place. Called once, when the run has ended.

        Without either the run was found stuck just before it ended, and the watchdog's thread has yet to say so:
        StuckError.
        """
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        if self._response is None:
            raise StuckError("the inference took so long that it was given up")
        return self._response
