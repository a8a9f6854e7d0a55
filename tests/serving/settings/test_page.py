"""Page: docs/configuration.md has every setting, in a file that can be read, and says which of them SIGHUP changes."""

from __future__ import annotations

import re

from nested_sparse.serving.settings.groups import OwnModel
from nested_sparse.serving.settings.setting import settings_of
from nested_sparse.serving.settings.settings import GROUPS, Settings, read_settings
from nested_sparse.toml_file import parse_toml
from support import ROOT

PAGE = ROOT.joinpath("docs/configuration.md").read_text(encoding="utf-8")
FILE = re.search(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
TABLES = {**GROUPS, "model.model": OwnModel}


def test_its_file_has_every_key() -> None:
    """Also those that are commented out, whose examples are values of the right type and range."""
    assert FILE is not None
    lines, keys, table = [], [], ""
    for line in FILE[1].splitlines():
        if header := re.match(r"\[(\S+)\]", line):
            table = header[1]
        key = re.match(r"(?:# )?(\w+) = ", line)
        if key:
            keys.append((table, key[1]))
        lines.append(line.removeprefix("# "))
    assert keys == [(table, name) for table, group in TABLES.items() for name in settings_of(group)]
    settings = read_settings_of("\n".join(lines))
    assert settings.model["model"].max_batch == 16


def read_settings_of(text: str) -> Settings:
    """As those of a file in the current folder; of level and policy, only one can be given."""
    tables = parse_toml(re.sub(r"^level = .*$", "", text, flags=re.MULTILINE))
    return read_settings(None, tables)


def test_what_it_does_not_comment_out_is_the_default() -> None:
    """Except for the files, and the table of a single model."""
    assert FILE is not None
    tables = parse_toml(FILE[1])
    assert tables.pop("models") | {"files": []} == {
        "files": [],
        "version_policy": "latest",
        "slo_ms": 1000.0,
        "spin": False,
    }
    for table, values in tables.items():
        for key, value in values.items() if table != "model" else ():
            assert (key, value) == (key, getattr(GROUPS[table](), key))


def test_it_names_the_settings_that_a_signal_changes() -> None:
    """All of them, and no other."""
    (row,) = re.findall(r"^\| (`slo_ms`.*?) \| all others \|$", PAGE, re.MULTILINE)
    live = {key for group in TABLES.values() for key, facts in settings_of(group).items() if facts.live}
    assert set(re.findall(r"`(\w+)`", row)) == live
