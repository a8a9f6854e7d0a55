"""Settings: a file and flags become one whole, and every mistake is named at once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nested_sparse.errors import SettingsError
from nested_sparse.serving.settings.groups import Address, Models, OwnModel
from nested_sparse.serving.settings.reload import differences
from nested_sparse.serving.settings.setting import settings_of
from nested_sparse.serving.settings.settings import GROUPS, Settings, read_settings

FILES = 'files = ["a.safetensors", "b.safetensors"]'


def read(folder: Path, text: str, flags: dict[str, Any] | None = None) -> Settings:
    """The settings of a file serve.toml with `text`."""
    path = folder / "serve.toml"
    path.write_text(text)
    return read_settings(path, flags or {})


def problems(folder: Path, text: str, flags: dict[str, Any] | None = None) -> list[str]:
    """The lines of the error."""
    with pytest.raises(SettingsError) as caught:
        read(folder, text, flags)
    return str(caught.value).split("\n  ")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """But those of flags are as they stand, absolute ones stay, and `off` is none."""
    folder = tmp_path / "etc"
    folder.mkdir()
    text = '[models]\nfiles = ["a.safetensors", "/data/b.safetensors"]\nprofile_cache = "cache"'
    models = read(folder, text).models
    assert models.files == (folder / "a.safetensors", Path("/data/b.safetensors"))
    assert models.profile_cache == folder / "cache"
    assert read(folder, text, {"models": {"profile_cache": "off"}}).models.profile_cache == "off"
    assert read(folder, f'[models]\n{FILES}\nprofile_cache = "off"').models.profile_cache == "off"
    assert read(folder, text, {"models": {"files": [Path("c.safetensors")]}}).models.files == (Path("c.safetensors"),)


def test_flags_override_single_keys(tmp_path: Path) -> None:
    text = f"[address]\nport = 7\nhost = '::1'\n[models]\n{FILES}\n[model.a]\npriority = 1\nslo_ms = 20\n"
    settings = read(tmp_path, text, {"address": {"port": 8}, "model": {"a": {"priority": 5}, "b": {"priority": 2}}})
    assert settings.address == Address(host="::1", port=8)
    assert settings.model == {"a": OwnModel(priority=5, slo_ms=20.0), "b": OwnModel(priority=2)}
    named = read(tmp_path, '[models]\nfiles = ["model.safetensors"]', {"model": {"model": {"priority": 3}}})
    assert named.model == {"model": OwnModel(priority=3)}  # a model may have the table's name
    flags = {"model": {"a": {"priority": 3}}}
    assert "model.a = 3: expected a table" in problems(tmp_path, f"model.a = 3\n[models]\n{FILES}", flags)[0]


def test_a_model_takes_from_all_models_what_it_does_not_say(tmp_path: Path) -> None:
    text = (
        f"[models]\n{FILES}\nslo_ms = 50\nlevel = 1\n[limits]\nmax_batch = 8\nmin_battery = 20\n[model.b]\nslo_ms = 9"
    )
    settings = read(tmp_path, text)
    assert settings.of_model("a") == OwnModel(slo_ms=50.0, level=1, max_batch=8, min_memory_mb=64, min_battery=20.0)
    assert settings.of_model("b").slo_ms == 9.0
    assert settings.of_model("b").level == 1


def test_a_model_with_a_policy_of_its_own_has_no_fixed_level_of_others(tmp_path: Path) -> None:
    """Nor the other way round: a level and a policy exclude each other."""
    own = read(tmp_path, f'[models]\n{FILES}\nlevel = 1\n[model.b]\npolicy = "slackfit"').of_model("b")
    assert (own.level, own.policy) == (None, "slackfit")
    own = read(tmp_path, f'[models]\n{FILES}\npolicy = "slackfit"\n[model.b]\nlevel = 0').of_model("b")
    assert (own.level, own.policy) == (0, None)


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    """Each with its table, key and value, and what is allowed."""
    text = f"""
    [address]
    port = 70000
    prot = 1
    host = 3
    [limits]
    max_batch = 2.5
    min_frequency = nan
    [models]
    {FILES}
    [watch]
    [model.a]
    slo = 3
    slo_ms = 0
    """
    lines = problems(tmp_path, text)
    assert lines[0] == f"{tmp_path / 'serve.toml'}:"
    assert set(lines[1:]) == {
        "[address]: there is no 'prot'; did you mean 'port'? expected one of: "
        + ", ".join(Address.__dataclass_fields__),
        "[address] host = 3: expected a string",
        "[address] port = 70000: expected 0 to 65535",
        "[limits] max_batch = 2.5: expected a whole number",
        "[limits] min_frequency = nan: expected a number",
        "tables: there is no 'watch'; did you mean 'watching'? expected one of: address, security, limits, models, "
        "fetching, watching, model.NAME",
        "[model.a]: there is no 'slo'; did you mean 'slo_ms'? expected one of: "
        + ", ".join(OwnModel.__dataclass_fields__),
        "[model.a] slo_ms = 0.0: expected at least 0.1",
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is nothing to serve"),
        ("[models]\nfiles = []", "there is nothing to serve"),
        ("models = 3", "models = 3: expected a table, [models]"),
        (f"model = 3\n[models]\n{FILES}", "model = 3: expected a table, [model]"),
        (f"[models]\n{FILES}\n[model]\na = 3", "model.a = 3: expected a table, [model.a]"),
        (f"[models]\n{FILES}\n[model.c]", "[model] c: there is no 'c'; expected one of: a, b"),
        (f"[models]\n{FILES}\npolicy = 'greedy'", "[models] policy: expected one of elastic, slackfit"),
        (f"[models]\n{FILES}\npolicy = 'slackfit'\nlevel = 0", "[models] policy: a fixed level leaves nothing"),
        (f"[models]\n{FILES}\n[model.a]\npolicy = 'slackfit'\nlevel = 0", "[model.a] policy: a fixed level"),
        (f"[models]\n{FILES}\n[model.a]\nmax_batch = 65", "[model.a] max_batch: expected at most that of [limits], 64"),
        (f"[models]\n{FILES}\n[address]\nport = 9\nmetrics_port = 9", "--port and --metrics-port are both 9"),
        ("[models]\nfiles = 'a.safetensors'", '[models] files = "a.safetensors": expected a list, each a path'),
        ("[models]\nfiles = [3]", "[models] files = [3]: expected a list, each a path"),
        ("[models", "is not TOML"),
        ("a = " + "[" * 100_000, "is not TOML"),
        ("#" * (1 << 20) + "#", "expected at most 1048576 bytes"),
    ],
)
def test_a_mistake_alone(tmp_path: Path, text: str, said: str) -> None:
    assert said in "\n".join(problems(tmp_path, text))


def test_a_mistake_in_the_tables_of_flags(tmp_path: Path) -> None:
    """Where the file has something else in the place of a table, or where there is no file."""
    assert "models = 3: expected a table" in problems(tmp_path, "models = 3", {"models": {"slo_ms": 3.0}})[0]
    with pytest.raises(SettingsError, match=r"serve: .* there is no 'c'"):
        read_settings(None, {"models": {"files": [Path("a.safetensors")]}, "model": {"c": {"priority": 1}}})


LEAVES = st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from(["off", "a", 1, 0.5])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2))


def content(group: type) -> st.SearchStrategy[Any]:
    """A table of the group, mostly of its own keys, or a value in the place of one."""
    return st.dictionaries(st.sampled_from([*settings_of(group), "x"]), LEAVES | VALUES, max_size=2) | VALUES


OWN = st.dictionaries(st.sampled_from("abc"), content(OwnModel), max_size=2)
TABLES = {**{table: content(group) for table, group in GROUPS.items()}, "model": OWN | VALUES, "x": VALUES}


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({}, optional=TABLES))
def test_whatever_a_file_holds_it_is_read_or_refused(tables: dict[str, Any]) -> None:
    """Settings that are read can be used for a model of any name."""
    path = "nested_sparse.serving.settings.settings.read_toml"
    with mock.patch(path, return_value=tables), contextlib.suppress(SettingsError):
        found = read_settings(Path("serve.toml"), {"models": {"files": [Path("a")]}})
        assert found.of_model("a").slo_ms is not None
        assert list(differences(found, found)) == []


def test_no_text_has_a_null_character(tmp_path: Path) -> None:
    """Python raises for one in a name of a file or a host."""
    lines = problems(
        tmp_path,
        r'''models = {files = ["a", "b\u0000"], profile_cache = "\u0000"}
address.host = "a\u0000"''',
    )
    assert [line.partition(" = ")[0] for line in lines[1:]] == [
        "[models] files",
        "[models] profile_cache",
        "[address] host",
    ]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="is not TOML"):
        read_settings(path, {})
    with pytest.raises(SettingsError, match="cannot be read"):
        read_settings(tmp_path, {})


@pytest.mark.parametrize("make", [lambda: Address(port=-1), lambda: Models(slo_ms=float("nan"))])
def test_a_group_made_in_python_is_checked_too(make: Any) -> None:
    with pytest.raises(SettingsError, match=r"(Address.port|Models.slo_ms): expected .*, got"):
        make()
