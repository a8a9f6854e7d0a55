"""TraceSettings: the protocol's TraceSetting, of a server that writes no traces into files of its own."""

from __future__ import annotations

from typing import Any

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.proto import messages

from .dataplane import Dataplane

LEVEL, OFF = "trace_level", "OFF"
UNUSED = ("trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode")
"""Settings of traces that are switched on."""


class TraceSettings:
    """Answers that traces are off. A client may switch them off, and no other setting is obeyed or ignored."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    async def trace_setting(self, request: messages.TraceSettingRequest, context: Any) -> messages.TraceSettingResponse:
        """The settings of all models, or of one. Raises NotFoundError, and InputError for what cannot be obeyed."""
        if request.model_name:
            self._dataplane.find(request.model_name)
        for key, setting in request.settings.items():
            if key not in (LEVEL, *UNUSED):
                raise InputError(f"Setting '{excerpt(key)}' is not known; expected {LEVEL!r}.")
            if setting.value and (key != LEVEL or list(setting.value) != [OFF]):
                raise InputError(
                    f"Setting {key!r}: this server writes no traces, so {excerpts(setting.value)} cannot be obeyed; "
                    f"expected {LEVEL!r} {OFF!r}. Times of requests are in ModelStatistics and in the metrics."
                )
        response = messages.TraceSettingResponse()
        response.settings[LEVEL].value.append(OFF)
        return response
