"""Settings: all that `serve` was told, by a file and by flags, which override it; checked as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nested_sparse.errors import InputError, SettingsError
from nested_sparse.excerpt import excerpt
from nested_sparse.options import Problems, checked_options, unknown
from nested_sparse.toml_file import read_toml

from ..fetching.address import Address as FileAddress
from ..repository.version_policy import VersionPolicy
from .groups import Address, Fetching, Limits, Models, OwnModel, Security, Watching
from .setting import range_problems

GROUPS: Mapping[str, type[Any]] = {
    "address": Address,
    "security": Security,
    "limits": Limits,
    "models": Models,
    "fetching": Fetching,
    "watching": Watching,
}
"""The tables of a file. There is also [model.NAME] for each model, an OwnModel."""
OWN = "model"
Tables = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Settings:
    """The values that `serve` was told. model: the settings of single models, by name."""

    address: Address = field(default_factory=Address)
    security: Security = field(default_factory=Security)
    limits: Limits = field(default_factory=Limits)
    models: Models = field(default_factory=Models)
    fetching: Fetching = field(default_factory=Fetching)
    watching: Watching = field(default_factory=Watching)
    model: Mapping[str, OwnModel] = field(default_factory=dict)

    def of_model(self, name: str) -> OwnModel:
        """The settings of one model: its own, and where it has none, those of all models."""
        own, given = self.model.get(name, OwnModel()), {}
        chooses = own.level is not None or own.policy is not None  # by itself, not half as all models
        for key in (each.name for each in fields(own)):
            if getattr(own, key) is None and not (chooses and key in ("level", "policy")):
                given[key] = getattr(self.models if hasattr(self.models, key) else self.limits, key)
        return replace(own, **given)


def read_settings(path: Path | None, flags: Tables) -> Settings:
    """The settings of the file, if there is one, and of the flags. Nothing that they name is opened.

    flags: as the tables of a file, but paths are Path objects. Raises SettingsError, one for all problems: each with
    its table, key and value, and what is allowed.
    """
    tables = {} if path is None else read_toml(path, SettingsError)
    problems = Problems()
    for table, values in flags.items():
        _merge(tables, table, values)
    settings = _made(tables, problems, Path() if path is None else path.parent)
    if not problems.lines:
        for table, key, said in combined_problems(settings):
            problems.lines.append(f"[{table}] {key}: {said}")
    if problems.lines:
        raise SettingsError(f"{path or 'serve'}:{problems.text()}")
    return settings


def combined_problems(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Table, key and problem of values that do not fit each other, or a policy that does not exist."""
    yield from _port_problems(settings.address)
    security = settings.security
    for key, beside in (("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("client_ca", "tls_cert")):
        if getattr(security, key) is not None and getattr(security, beside) is None:
            yield "security", key, f"needs {beside} (--{beside.replace('_', '-')}) beside it"
    yield from _level_problems("models", settings.models)
    try:
        VersionPolicy.read(settings.models.version_policy)
    except InputError as error:
        yield "models", "version_policy", str(error).removeprefix("version policy: ")
    for name, own in settings.model.items():
        yield from _level_problems(f"{OWN}.{excerpt(name)}", own)
        for pair in own.state:
            if not all(pair.partition("=")[::2]):
                yield f"{OWN}.{excerpt(name)}", "state", f"expected OUTPUT=INPUT, got {excerpt(pair)!r}"
        if own.max_batch is not None and own.max_batch > settings.limits.max_batch:
            yield (
                f"{OWN}.{excerpt(name)}",
                "max_batch",
                f"expected at most that of [limits], {settings.limits.max_batch}",
            )
    yield from _name_problems(settings)


def _port_problems(address: Address) -> Iterator[tuple[str, str, str]]:
    taken: dict[int, str] = {}
    for key in ("port", "metrics_port", "http_port"):
        number = getattr(address, key)
        if number and number in taken:
            said = f"--{taken[number].replace('_', '-')} and --{key.replace('_', '-')} are both {number}"
            yield "address", key, f"{said}: each needs one of its own; choose another (0 picks a free one)"
        elif number:
            taken[number] = key
    if address.unix_socket is not None and address.unix_socket == address.http_unix_socket:
        yield "address", "http_unix_socket", "is that of --unix-socket, which gRPC has; choose another path"


def _level_problems(table: str, group: Models | OwnModel) -> Iterator[tuple[str, str, str]]:
    if group.policy is None:
        return
    from nested_sparse.runtime.policy import DEFAULT_POLICY, policy_named  # with numpy and ONNX Runtime

    try:
        policy_named(group.policy)
    except InputError as error:
        yield table, "policy", str(error).removeprefix("policy: ")
    if group.level is not None and group.policy != DEFAULT_POLICY:
        yield table, "policy", "a fixed level leaves nothing to choose; give one of the two"


def _name_problems(settings: Settings) -> Iterator[tuple[str, str, str]]:
    names = [path.stem for path in settings.models.files]
    for url in settings.fetching.urls:
        try:
            name = FileAddress(url).name
        except InputError as error:
            yield "fetching", "urls", str(error)
            continue
        if name in names:
            yield "fetching", "urls", f"two models would be served as {excerpt(name)!r}; rename one of the files"
        names.append(name)
    if settings.models.model_dir is not None:  # its models may change while it is served
        return
    if not names:
        yield "models", "files", "there is nothing to serve; name a FILE or a URL, or give model_dir (--model-dir)"
        return
    for name in settings.model:
        if name not in names:
            yield OWN, excerpt(name), f"{unknown(name, names)}, the models served"


def _made(tables: Mapping[str, Any], problems: Problems, folder: Path) -> Settings:
    made: dict[str, Any] = {}
    for table, content in tables.items():
        if table not in (*GROUPS, OWN):
            problems.add_unknown("tables", table, [*GROUPS, f"{OWN}.NAME"])
        elif not isinstance(content, dict):
            problems.lines.append(f"{table} = {excerpt(repr(content))}: expected a table, [{table}]")
        elif table == OWN:
            made[OWN] = {
                name: _group(f"{OWN}.{excerpt(name)}", OwnModel, own, problems, folder) for name, own in content.items()
            }
        else:
            made[table] = _group(table, GROUPS[table], content, problems, folder)
    return Settings() if problems.lines else Settings(**made)


def _group(table: str, kind: type[Any], content: Any, problems: Problems, folder: Path) -> Any:
    """The group, or None after adding its problems."""
    if not isinstance(content, dict):
        problems.lines.append(f"{table} = {excerpt(repr(content))}: expected a table, [{table}]")
        return None
    noted = len(problems.lines)
    values = checked_options(table, content, kind, problems)
    for key, value, expected in range_problems(kind, values):
        problems.add(table, key, value, expected)
    if len(problems.lines) > noted:
        return None
    return kind(**{key: _placed(content[key], value, folder) for key, value in values.items()})


def _merge(tables: dict[str, Any], table: str, values: Mapping[str, Any]) -> None:
    """Set `values` in `tables`, those of models one by one. Where a table is none, the check says so."""
    content = tables.setdefault(table, {})
    if not isinstance(content, dict):
        return
    for key, value in values.items():
        if table != OWN or key not in content:
            content[key] = value
        elif isinstance(content[key], dict):
            content[key].update(value)


def _placed(written: Any, value: Any, folder: Path) -> Any:
    """`value`, a path relative to `folder` where it was `written` as text: in a file. Those of flags are paths."""
    if isinstance(written, list):
        return tuple(_placed(*each, folder) for each in zip(written, value, strict=True))
    return folder / value if isinstance(written, str) and isinstance(value, Path) else value
