"""Check: `serve --check` says what would be served, and every mistake in what the settings name."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from click.testing import CliRunner

from chain import counting_chain
from nested_sparse.serving import cli


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of two models, a.safetensors of three levels and b.safetensors, which is cut off."""
    counting_chain(tmp_path / "a.safetensors", 2, 4, 3)
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-10])
    return tmp_path


def check(*arguments: object) -> Any:
    """The result of `serve --check`."""
    return CliRunner().invoke(cli.app, ["serve", "--check", *map(str, arguments)])


def test_what_would_be_served(files: Path) -> None:
    """From a file, with flags; nothing listens, so a port that is in use does not matter."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = files / "serve.toml"
        path.write_text(
            f'[address]\nport = {port}\n[models]\nfiles = ["a.safetensors"]\nslo_ms = 20\n[model.a]\nlevel = -1'
        )
        result = check("--config", path, "--priority", "a=4", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "addresses": {"gRPC": f"127.0.0.1:{port}"},
        "security": {},
        "models": [
            {
                "name": "a",
                "version": "1",
                "file": str(files / "a.safetensors"),
                "levels": 3,
                "slo_ms": 20.0,
                "priority": 4,
                "level": -1,
                "policy": None,
                "threads": None,
            }
        ],
        "problems": [],
        "warnings": [],
    }


def test_the_same_for_people(files: Path) -> None:
    result = check(files / "a.safetensors", "--port", "7001", "--metrics-port", "7002", "--slo-ms", "25")
    assert result.exit_code == 0
    assert "gRPC on 127.0.0.1:7001\nmetrics on 127.0.0.1:7002\nsecurity: none\n" in result.stdout
    assert re.search(r"\na +1 +\S+/a\.safetensors +3 +25 +0 +elastic\n", result.stdout)


def test_every_mistake_is_said_at_once(files: Path) -> None:
    """In the files, and in what they are asked for; the exit code is that of wrong usage."""
    models = [files / name for name in ("a.safetensors", "absent.safetensors", "b.safetensors", "a.safetensors")]
    result = check(*models, "--level", 3, "--host", "203.0.113.1", "--insecure", "--json")
    assert result.exit_code == 2
    problems = json.loads(result.stdout)["problems"]
    said = (
        "203.0.113.1",
        "absent.safetensors: no such file",
        "would both be served as 'a'",
        "a.safetensors: level 3",
        "b.safetensors: ",
    )
    assert len(problems) == len(said)
    for text, problem in zip(said, problems, strict=True):
        assert text in problem
        assert problem in result.stderr.replace("\n  ", "\n")


def test_certificates_and_tokens_are_read(files: Path) -> None:
    authority = Authority()
    cert, key = authority.issue(files)
    ca, tokens = files / "ca.pem", files / "tokens"
    ca.write_bytes(authority.pem)
    tokens.write_text(f"me inference {'x' * 40}\nyou reading {'y' * 40}\n")
    flags = ["--tls-cert", cert, "--tls-key", key, "--client-ca", ca, "--token-file", tokens, "--json"]
    result = check(files / "a.safetensors", *flags)
    assert result.exit_code == 0, result.output
    security = json.loads(result.stdout)["security"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", security.pop("certificate_ends"))
    assert security == {"tls": "mutual", "tokens": 2}


def test_a_mistake_in_one_file_hides_no_other(files: Path) -> None:
    """A pipe is a mistake, too, and is not waited for."""
    old, key = Authority().issue(files, days=-1)
    pipe = files / "pipe"
    os.mkfifo(pipe)
    no_file = f"{pipe}: it is not a regular file"
    for cert, tokens, said in (
        (old, pipe, ("203.0.113.1", no_file)),
        (pipe, files / "absent", ("203.0.113.1", no_file, "absent: No such file")),
    ):
        flags = ["--tls-cert", cert, "--tls-key", key, "--token-file", tokens, "--host", "203.0.113.1", "--json"]
        result = check(files / "a.safetensors", *flags)
        assert result.exit_code == 2
        facts = json.loads(result.stdout)
        problems = facts["problems"]
        assert [text in problem for text, problem in zip(said, problems, strict=True)] == [True] * len(said)
        assert ["clients would refuse it now" in line for line in facts["warnings"]] == [True] * (cert == old)
    open_to_all = json.loads(check(files / "a.safetensors", "--host", "0.0.0.0", "--json").stdout)["problems"]
    assert ["can be reached over the network" in line for line in open_to_all] == [True]


def test_mistakes_in_the_settings_come_first(files: Path) -> None:
    """Then nothing is opened."""
    path = files / "serve.toml"
    path.write_text('[models]\nfiles = ["absent.safetensors"]\nslo = 3\n[address]\nport = "x"')
    result = check("--config", path)
    assert result.exit_code == 2
    assert "[models]: there is no 'slo'; did you mean 'slo_ms'?" in result.stderr
    assert '[address] port = "x": expected a whole number' in result.stderr
    assert "absent" not in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_directory(files: Path) -> None:
    """Its versions by the policy; a damaged one, a link out of it, and a name that a file has too are mistakes."""
    root = files / "models"
    for place in ("m/1", "m/2", "m/3", "damaged/1", "out/1", "empty", "a/1"):
        (root / place).mkdir(parents=True)
    for place in ("m/1", "m/2", "m/3", "a/1"):
        shutil.copy(files / "a.safetensors", root / place / "model.safetensors")
    shutil.copy(files / "b.safetensors", root / "damaged/1/model.safetensors")
    (root / "out/1/model.safetensors").symlink_to(files / "a.safetensors")
    result = check(files / "a.safetensors", "--model-dir", root, "--version-policy", "latest:2", "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert [(model["name"], model["version"]) for model in found["models"] if model["name"] == "m"] == [
        ("m", "2"),
        ("m", "3"),
    ]
    problems = "\n".join(found["problems"])
    assert len(found["problems"]) == 4
    for text in (
        "'empty': no version for the policy",
        "damaged/1",
        "out/1/model.safetensors: is a link that leads out",
        "a: is in the model directory",
    ):
        assert text in problems
    result = check("--model-dir", root / "empty")
    assert result.exit_code == 2
    assert "there is no model in it" in result.stderr
    result = check("--model-dir", root, "--version-policy", "newest")
    assert result.exit_code == 2
    assert "[models] version_policy: expected 'latest'" in result.stderr


def test_what_serving_takes_with_a_warning_is_no_mistake(files: Path) -> None:
    """A certificate that is not valid now, and settings of a model that is not in the directory now."""
    old, key = Authority().issue(files, days=-1)
    (files / "models/net/1").mkdir(parents=True)
    shutil.copy(files / "a.safetensors", files / "models/net/1/model.safetensors")
    (files / "serve.toml").write_text('[models]\nmodel_dir = "models"\n[model.nte]\nslo_ms = 5\n')
    flags = ["--config", files / "serve.toml", "--tls-cert", old, "--tls-key", key]
    result = check(*flags, "--json")
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)["warnings"]
    assert "clients would refuse it now" in first
    assert "[model.nte]: there is no 'nte'; did you mean 'net'?" in second
    assert "warning: [model.nte]" in check(*flags).stdout


def test_a_folder_of_fetched_models_that_cannot_be_made(files: Path) -> None:
    """Nothing is made by looking."""
    url = "http://127.0.0.1:1/net.safetensors"
    result = check(url, "--fetch-dir", files / "a.safetensors")
    assert result.exit_code == 2
    assert "not a folder); name another (--fetch-dir)" in result.stderr
    result = check(url, "--fetch-dir", files / "new/deep")
    assert result.exit_code == 0, result.output
    assert not (files / "new").exists()
    result = check("s3://bucket/net.safetensors")
    assert result.exit_code == 2
    assert "expected one as https://example.com" in result.stderr


def test_mistakes_of_the_file_are_json_too(tmp_path: Path) -> None:
    """A program that watches a deployment reads the problems where they are worst."""
    (tmp_path / "bad.toml").write_text("[address]\nport = -1\n[nothing]\n", encoding="utf-8")
    result = check("--config", tmp_path / "bad.toml", "--json")
    assert result.exit_code == 2
    facts = json.loads(result.stdout)
    assert facts["models"] == []
    assert any("port = -1" in line for line in facts["problems"])
    assert any("nothing" in line for line in facts["problems"])


def test_a_state_that_does_not_fit_its_model(files: Path) -> None:
    """A pair that is none is a mistake of the file of settings; names that the model lacks are found in the model."""
    path = files / "serve.toml"
    for state, said in (
        ("out", "expected OUTPUT=INPUT, got 'out'"),
        ("out=input", "a: state: there is no output 'out'"),
    ):
        path.write_text(f'[models]\nfiles = ["a.safetensors"]\n[model.a]\nstate = ["{state}"]')
        result = check("--config", path)
        assert result.exit_code == 2
        assert said in result.output
