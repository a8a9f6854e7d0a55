"""VersionPolicy: the choice of the versions of a model that are served."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nested_sparse.argument import as_whole, shown, whole
from nested_sparse.errors import InputError
from nested_sparse.excerpt import excerpt

if TYPE_CHECKING:
    from nested_sparse.proto.messages import ModelVersionPolicy

FORMS = "'latest', 'latest:N', 'all' or versions such as '1,3', with whole numbers above 0"
NUMBERS = re.compile(r"[1-9][0-9]{0,18}(,[1-9][0-9]{0,18})*")
MOST_VERSION, MOST_LATEST = 2**63 - 1, 2**32 - 1
"""The largest version and the largest N: the protocol's version policy holds them in an int64 and in a uint32."""


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """The `latest` highest versions; the `specific` ones where there are any; all where both are empty.

    Raises InputError for numbers that are out of range.
    """

    latest: int = 0
    specific: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        whole("latest", self.latest, 0, MOST_LATEST)
        for version in self.specific:
            whole("specific", version, 1, MOST_VERSION)

    @staticmethod
    def read(text: str) -> VersionPolicy:
        """The policy that `text` states. Raises InputError."""
        if text == "all":
            return ALL
        if text == "latest":
            return LATEST
        listed = text.removeprefix("latest:")
        numbers = [int(part) for part in listed.split(",")] if NUMBERS.fullmatch(listed) else []
        if listed != text and len(numbers) == 1 and numbers[0] <= MOST_LATEST:
            return VersionPolicy(latest=numbers[0])
        if listed == text and numbers and max(numbers) <= MOST_VERSION:
            return VersionPolicy(specific=tuple(numbers))
        raise InputError(f"version policy: expected {FORMS}, got '{excerpt(text)}'")

    @staticmethod
    def of_json(value: Any) -> VersionPolicy:
        """The policy in Triton's form: {"latest": {"num_versions": N}}, {"all": {}} or {"specific": {"versions": […]}}.

        Raises InputError.
        """
        kind, fields = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", None)
        if kind == "all" and fields == {}:
            return ALL
        if isinstance(fields, dict) and len(fields) == 1:
            latest, versions = fields.get("num_versions"), fields.get("versions", [])
            if kind == "latest" and _all_between([latest], MOST_LATEST):
                return VersionPolicy(latest=int(latest or 0))
            if kind == "specific" and isinstance(versions, list) and versions and _all_between(versions, MOST_VERSION):
                return VersionPolicy(specific=tuple(versions))
        raise InputError(
            'version_policy: expected {"latest": {"num_versions": N}}, {"all": {}} or {"specific": {"versions": [V]}}, '
            f"got {shown(value)}"
        )

    def chosen(self, versions: Iterable[int]) -> list[int]:
        """The versions to serve, of those that there are; rising."""
        rising = sorted(set(versions))
        if self.specific:
            return [version for version in rising if version in self.specific]
        return rising[-self.latest :]

    def message(self) -> ModelVersionPolicy:
        """The policy as the protocol states it in a model's configuration."""
        from nested_sparse.proto.messages import (
            ModelVersionPolicy,  # with protobuf, which reading settings does not need
        )

        if self.specific:
            return ModelVersionPolicy(specific=ModelVersionPolicy.Specific(versions=self.specific))
        if self.latest:
            return ModelVersionPolicy(latest=ModelVersionPolicy.Latest(num_versions=self.latest))
        return ModelVersionPolicy(all=ModelVersionPolicy.All())

    def __str__(self) -> str:
        if self.specific:
            return ",".join(map(str, self.specific))
        return f"latest:{self.latest}" if self.latest else "all"


def _all_between(values: Iterable[Any], most: int) -> bool:
    numbers = [as_whole(value) or 0 for value in values]
    return all(0 < number <= most for number in numbers)


ALL = VersionPolicy()
LATEST = VersionPolicy(latest=1)
"""Triton's default."""
