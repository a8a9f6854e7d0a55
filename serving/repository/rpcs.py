"""RepositoryRpcs: the protocol's methods that list, load and unload models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nested_sparse.argument import shown
from nested_sparse.errors import InputError, RepositoryError
from nested_sparse.excerpt import excerpt, excerpts
from nested_sparse.proto import messages
from nested_sparse.proto.messages import ModelRepositoryParameter

from ..dataplane import Dataplane
from ..served_model import ServedModel
from .repository import READY, UNAVAILABLE, Entry, Repository
from .version_policy import VersionPolicy

CONFIG, DEPENDENTS = "config", "unload_dependents"
FILE_PREFIX = "file:"


class RepositoryRpcs:
    """Answers for all models of a dataplane. repository: where they come from; None: they stay as they are."""

    def __init__(self, dataplane: Dataplane, repository: Repository | None = None) -> None:
        self._dataplane = dataplane
        self._repository = repository

    async def repository_index(
        self, request: messages.RepositoryIndexRequest, context: Any
    ) -> messages.RepositoryIndexResponse:
        """Every version of every model with its state; with `ready`, only those that take requests."""
        _only_repository(request.repository_name)
        entries = [self._served(model) for model in self._dataplane.every()]
        if request.ready:
            entries = [entry for entry in entries if entry.state == READY]
        elif self._repository is not None:
            entries += await self._repository.unserved()
        response = messages.RepositoryIndexResponse()
        for entry in sorted(entries, key=lambda entry: (entry.name, int(entry.version or 0))):
            response.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        return response

    async def repository_model_load(
        self, request: messages.RepositoryModelLoadRequest, context: Any
    ) -> messages.RepositoryModelLoadResponse:
        """Serve the versions that are in the model directory now; ends when they take requests."""
        _only_repository(request.repository_name)
        policy = None
        for key, parameter in request.parameters.items():
            if key.startswith(FILE_PREFIX):
                raise InputError(f"Parameter '{excerpt(key)}': files are not taken from a client; put it on the server")
            if key != CONFIG:
                raise InputError(f"Parameter '{excerpt(key)}' is not known; expected {CONFIG!r} or none.")
            policy = _policy(request.model_name, _value(key, parameter, "string_param"))
        await self._existing().load(request.model_name, policy)
        return messages.RepositoryModelLoadResponse()

    async def repository_model_unload(
        self, request: messages.RepositoryModelUnloadRequest, context: Any
    ) -> messages.RepositoryModelUnloadResponse:
        """Take a model away; requests that had found it are still answered."""
        _only_repository(request.repository_name)
        for key, parameter in request.parameters.items():
            if key != DEPENDENTS:
                raise InputError(f"Parameter '{excerpt(key)}' is not known; expected {DEPENDENTS!r} or none.")
            _value(key, parameter, "bool_param")  # no model here depends on another: true and false mean the same
        await self._existing().unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()

    def _existing(self) -> Repository:
        if self._repository is None:
            raise RepositoryError("This server has no model directory; start it with --model-dir DIR.")
        return self._repository

    def _served(self, model: ServedModel) -> Entry:
        reason = ""
        if not self._dataplane.ready:
            reason = "draining"
        elif model in self._dataplane.stuck:
            reason = "an inference is stuck"
        return Entry(model.name, model.version, UNAVAILABLE if reason else READY, reason)


def _only_repository(name: str) -> None:
    if name:
        raise InputError(f"repository_name '{excerpt(name)}': this server has one repository, and it has no name.")


def _value(key: str, parameter: ModelRepositoryParameter, kind: str) -> Any:
    got = parameter.WhichOneof("parameter_choice")
    if got != kind:
        expected = kind.removesuffix("_param")
        raise InputError(
            f"Parameter {key!r}: expected {expected}, got {got.removesuffix('_param') if got else 'no value'}."
        )
    return getattr(parameter, kind)


def _policy(name: str, text: str) -> VersionPolicy | None:
    """The version policy in a model configuration in JSON; all its other settings come from the file and the flags."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"Parameter {CONFIG!r}: expected a JSON object, got {shown(text)}.") from None
    if not isinstance(config, Mapping):
        raise InputError(f"Parameter {CONFIG!r}: expected a JSON object, got {shown(config)}.")
    if unknown := [key for key in config if key not in ("name", "version_policy")]:
        raise InputError(
            f"Parameter {CONFIG!r}: {excerpts(unknown)} cannot be set by a load; expected 'version_policy'. The "
            "checkpoint and the server's flags state all else."
        )
    if config.get("name", name) != name:
        raise InputError(f"Parameter {CONFIG!r}: name {shown(config['name'])} is not the model's, '{excerpt(name)}'.")
    return VersionPolicy.of_json(config["version_policy"]) if "version_policy" in config else None
