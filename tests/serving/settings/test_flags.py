"""Flags: one for each setting, with the same name, default and range."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nested_sparse.serving import cli
from nested_sparse.serving.commands import serve as command
from nested_sparse.serving.settings.flags import flags_of
from nested_sparse.serving.settings.settings import GROUPS, Settings


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives the settings which `serve` with some arguments would serve."""
    taken: list[Settings] = []
    monkeypatch.setattr(command, "_run", lambda settings, *_: taken.append(settings))
    monkeypatch.setattr(command, "sys", type("sys", (), {"setswitchinterval": staticmethod(lambda _: None)}))
    monkeypatch.setattr(command, "faulthandler", type("faults", (), {"enable": staticmethod(lambda: None)}))
    monkeypatch.setattr(command, "limit_arenas", lambda: None)

    def run(*arguments: object) -> Settings:
        result = CliRunner().invoke(cli.app, ["serve", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return taken[-1]

    return run


def test_without_flags_everything_is_as_the_settings_say(read: Any) -> None:
    assert read("a.safetensors") == Settings(models=GROUPS["models"](files=(Path("a.safetensors"),)))


@pytest.mark.parametrize(("table", "key"), [(table, key) for table, group in GROUPS.items() for key in flags_of(group)])
def test_every_flag_sets_its_key_and_overrides_the_file(read: Any, tmp_path: Path, table: str, key: str) -> None:
    """Also with the default's value: a flag that is given counts."""
    values: dict[str, Any] = {
        "host": "::1", "policy": "slackfit", "profile_cache": "off", "log_format": "json", "version_policy": "all",
        "min_frequency": 0.5, "model_dir": "models", "otlp_endpoint": "http://a",
        **dict.fromkeys(("fetch_dir", "fetch_ca", "fetch_token_file"), "a.pem"),
        **dict.fromkeys(
            ("tls_cert", "tls_key", "client_ca", "token_file", "unix_socket", "http_unix_socket", "check_signature"),
            "a.pem",
        ),
    }  # fmt: skip
    beside = (
        [] if table != "security" else [f for f in ("--tls-cert", "--tls-key") if f != f"--{key}".replace("_", "-")]
    )
    needed = [word for flag in beside for word in (flag, "b.pem")]
    default = getattr(GROUPS[table](), key)
    value = values.get(key, True if default is False else 7)
    path = tmp_path / "serve.toml"
    path.write_text(f"[{table}]\n{key} = {json.dumps(value)}\n")
    of_file = getattr(getattr(read("a.safetensors", "--config", path, *needed), table), key)
    option = f"--{key.replace('_', '-')}"
    given = read("a.safetensors", *needed, *([option] if value is True else [option, value]))
    assert getattr(getattr(given, table), key) != default
    assert str(getattr(getattr(given, table), key)) in (str(of_file), Path(str(of_file)).name)
    if default is not None:
        back = [f"--no-{key.replace('_', '-')}"] if value is True else [option, default]
        assert getattr(getattr(read("a.safetensors", "--config", path, *back), table), key) == default


def test_priorities_are_those_of_models(read: Any) -> None:
    settings = read("a.safetensors", "b.safetensors", "--priority", "b=3", "--priority", "a=-1")
    assert {name: own.priority for name, own in settings.model.items()} == {"a": -1, "b": 3}


@pytest.mark.parametrize("text", ["b", "b=", "b=x", "=", "b=1.5"])
def test_a_priority_that_is_none(text: str) -> None:
    result = CliRunner().invoke(cli.app, ["serve", "b.safetensors", "--priority", text])
    assert result.exit_code == 2
    assert "NAME=N" in result.output


def test_a_priority_of_no_model_is_wrong_usage() -> None:
    result = CliRunner().invoke(cli.app, ["serve", "b.safetensors", "--priority", "c=1"])
    assert result.exit_code == 2
    assert "there is no 'c'; expected one of: b" in result.output


def test_the_help_has_a_group_for_each_table() -> None:
    shown = CliRunner().invoke(cli.app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    for table, group in GROUPS.items():
        if flags_of(group):
            assert f"{table.capitalize()} ([{table}] in a file)" in shown
