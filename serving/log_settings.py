"""LogSettings: the severities that the server's log shows, which clients may ask for and change."""

from __future__ import annotations

import logging
from typing import Any

from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.proto import messages

SEVERITIES = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}
VERBOSE = "log_verbose_level"
FIXED = {"log_file": "", "log_format": "default"}
"""Settings that a client cannot change: the server's owner says where the log goes, and in which format."""
Value = bool | int | str


class LogSettings:
    """The protocol's LogSettings over the log of this package. Belongs to one process, as the log does.

    Each severity is shown or not, and a verbose level above 0 shows records for developers, too. reset() undoes all.
    """

    def __init__(self) -> None:
        self._logger = logging.getLogger("nested_sparse")
        self._level = self._logger.level
        self._filter = _Severities(self._logger.name)
        self._verbose = 0

    async def log_settings(self, request: messages.LogSettingsRequest, context: Any) -> messages.LogSettingsResponse:
        """Change the settings that the request names, all of them or none, and state them all."""
        wanted = {key: self._checked(key, value) for key, value in request.settings.items()}
        for key, value in wanted.items():
            if key == VERBOSE:
                self._verbose = int(value)
            elif key in SEVERITIES:
                (self._filter.hidden.discard if value else self._filter.hidden.add)(SEVERITIES[key])
        if wanted:
            self._apply()
        response = messages.LogSettingsResponse()
        for key, value in self._values().items():
            setattr(response.settings[key], _kind(value), value)
        return response

    def reset(self) -> None:
        """Show again what was shown before."""
        self._verbose = 0
        self._filter.hidden.clear()
        self._apply()

    def _values(self) -> dict[str, Value]:
        shown: dict[str, Value] = {key: level not in self._filter.hidden for key, level in SEVERITIES.items()}
        return {**shown, VERBOSE: self._verbose, **FIXED}

    def _checked(self, key: str, value: messages.LogSettingsRequest.SettingValue) -> Value:
        present = self._values().get(key)
        if present is None:
            raise InputError(f"Setting '{excerpt(key)}' is not known; expected one of {excerpts(self._values())}.")
        kind = value.WhichOneof("parameter_choice")
        if kind != _kind(present):
            expected, got = _kind(present).removesuffix("_param"), kind.removesuffix("_param") if kind else "no value"
            raise InputError(f"Setting {key!r} has the wrong type: expected {expected}, got {got}.")
        new: Value = getattr(value, kind)
        if key in FIXED and new != present:
            raise InputError(f"Setting {key!r} cannot be changed by a client; it is {present!r}.")
        return new

    def _apply(self) -> None:
        for handler in logging.getLogger().handlers:
            handler.removeFilter(self._filter)
            if self._filter.hidden:
                handler.addFilter(self._filter)
        self._logger.setLevel(logging.DEBUG if self._verbose else self._level)


class _Severities(logging.Filter):
    """Drops this package's records of the hidden severities; `critical` ones are errors, too."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._package = f"{name}."
        self.hidden: set[int] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        return not record.name.startswith(self._package) or min(record.levelno, logging.ERROR) not in self.hidden


def _kind(value: Value) -> str:
    if isinstance(value, bool):
        return "bool_param"
    return "uint32_param" if isinstance(value, int) else "string_param"
