"""Routes: the paths of the REST interface, and the RPC behind each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from google.protobuf.message import Message

from nested_sparse.proto import messages

from .json_message import fill_message, message_as_json


@dataclass(frozen=True, slots=True)
class Route:
    """One path.

    method: GET or POST. path: with a name in braces for a part that is a field of the request.
    rpc: name of the RPC.
    flag: field of the answer that is the answer: HTTP status 200 where it is true, else 400, as Triton has it.
    inner: field of the answer whose value is the whole body; "" for the message itself.
    body: field of the request that the body is; "" for the request itself.
    """

    method: str
    path: str
    rpc: str
    flag: str = ""
    inner: str = ""
    body: str = ""


_MODEL, _VERSION = "v2/models/{name}", "v2/models/{name}/versions/{version}"
ROUTES = (
    Route("POST", "v2/models/{model_name}/infer", "ModelInfer"),
    Route("POST", "v2/models/{model_name}/versions/{model_version}/infer", "ModelInfer"),
    Route("GET", "v2/health/live", "ServerLive", flag="live"),
    Route("GET", "v2/health/ready", "ServerReady", flag="ready"),
    Route("GET", "v2", "ServerMetadata"),
    Route("GET", "v2/models/stats", "ModelStatistics"),
    *(
        route
        for model in (_MODEL, _VERSION)
        for route in (
            Route("GET", model, "ModelMetadata"),
            Route("GET", f"{model}/ready", "ModelReady", flag="ready"),
            Route("GET", f"{model}/config", "ModelConfig", inner="config"),
            Route("GET", f"{model}/stats", "ModelStatistics"),
        )
    ),
    Route("POST", "v2/repository/index", "RepositoryIndex", inner="models"),
    Route("POST", "v2/repository/models/{model_name}/load", "RepositoryModelLoad"),
    Route("POST", "v2/repository/models/{model_name}/unload", "RepositoryModelUnload"),
    *(
        Route(method, path, "TraceSetting", inner="settings", body="settings")
        for path in ("v2/trace/setting", "v2/models/{model_name}/trace/setting")
        for method in ("GET", "POST")
    ),
    *(Route(method, "v2/logging", "LogSettings", inner="settings", body="settings") for method in ("GET", "POST")),
    *(
        route
        for kind in ("System", "Cuda")
        for folder in (f"v2/{kind.lower()}sharedmemory",)
        for route in (
            Route("GET", f"{folder}/status", f"{kind}SharedMemoryStatus", inner="regions"),
            Route("GET", f"{folder}/region/{{name}}/status", f"{kind}SharedMemoryStatus", inner="regions"),
            Route("POST", f"{folder}/region/{{name}}/register", f"{kind}SharedMemoryRegister"),
            Route("POST", f"{folder}/unregister", f"{kind}SharedMemoryUnregister"),
            Route("POST", f"{folder}/region/{{name}}/unregister", f"{kind}SharedMemoryUnregister"),
        )
    ),
)
# in this order, because a path is compared with one after the other; the first are those that are asked most
_PATTERNS = tuple(
    (route, re.compile("/" + re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", route.path) + "/?")) for route in ROUTES
)


def find_route(method: str, path: str) -> tuple[Route | None, dict[str, str], set[str]]:
    """The route of a path as it came, its fields, and the methods that the path has; no route, no methods: unknown."""
    allowed: set[str] = set()
    for route, pattern in _PATTERNS:
        match = pattern.fullmatch(path)
        if match is None:
            continue
        allowed.add(route.method)
        if route.method == ("GET" if method == "HEAD" else method):
            return route, {name: unquote(text) for name, text in match.groupdict().items()}, allowed
    return None, {}, allowed


def request_bytes(route: Route, fields: Mapping[str, str], body: Any) -> bytes:
    """The serialised request of the RPC. body: of the HTTP request, None where it has none. Raises InputError."""
    message: Message = getattr(messages, f"{route.rpc}Request")()
    if body is not None:
        fill_message(message, {route.body: body} if route.body else body, "The body")
    for name, text in fields.items():
        setattr(message, name, text)
    serialized: bytes = message.SerializeToString()
    return serialized


def answer_of(route: Route, message: Message) -> tuple[int, Any]:
    """The HTTP status and the JSON for the RPC's response."""
    shown = message_as_json(message)
    status = 200 if not route.flag or shown[route.flag] else 400
    inner = shown[route.inner] if route.inner else shown
    return status, _SHAPES.get(route.inner, _as_it_is)(inner)


def _as_it_is(value: Any) -> Any:
    return value


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Values of trace settings without their message around them; only the levels of a trace are a list."""
    values = {name: value["value"] if isinstance(value, dict) else value for name, value in settings.items()}
    return {
        name: value[0] if isinstance(value, list) and len(value) == 1 and name != "trace_level" else value
        for name, value in values.items()
    }


_SHAPES: Mapping[str, Callable[[Any], Any]] = {
    "regions": lambda regions: list(regions.values()),
    "settings": _settings,
}
