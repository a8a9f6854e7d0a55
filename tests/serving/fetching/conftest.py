"""Published models: one of 0.9 MB, one with another densest level, a signed one, one that fails its self-check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fetching_device import INPUTS, Published, changed_densest
from file_server import FileServer

import chain
from nested_sparse.serving.fetching import follower
from support import layer_record, random_weight


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Two linear layers, which are opened in a tenth of the time of a convolutional network."""
    rng = np.random.default_rng(0)
    densities = (0.05, 0.2, 0.5, 0.9)
    weights = [
        random_weight(rng, name, rows, columns, densities=densities)
        for name, rows, columns in (("first", 480, INPUTS), ("second", 10, 480))
    ]
    path = tmp_path_factory.mktemp("first") / "net.safetensors"
    chain.write(path, [layer_record(rng, weight, len(densities)) for weight in weights], len(densities))
    return Published.of(path, 1)


@pytest.fixture(scope="session")
def second(first: Published, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """It differs from `first` in the densest level."""
    return Published.of(changed_densest(first.path, tmp_path_factory.mktemp("second") / "net.safetensors"), 2)


@pytest.fixture(scope="session")
def failing(first: Published, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Its manifest states other answers of its densest level than it gives."""
    path = changed_densest(first.path, tmp_path_factory.mktemp("failing") / "net.safetensors", 2.0)
    published = Published.of(path, 3)
    check = published.manifest.self_check
    wrong = {name: tuple(-value for value in values) for name, values in check.expected[-1].items()}
    stated = replace(check, expected=(*check.expected[:-1], wrong))
    return replace(published, manifest=replace(published.manifest, self_check=stated).signed())


@pytest.fixture
def server(first: Published) -> Iterator[FileServer]:
    """A file server with `first`."""
    with FileServer(first.files) as it:
        yield it


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other soon."""
    monkeypatch.setattr(follower, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(follower, "MOST_WAIT_S", 0.2)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A private key, its public key, and the private key of another owner."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519", reason="cryptography is missing")
    from cryptography.hazmat.primitives import serialization as form

    folder = tmp_path_factory.mktemp("keys")
    for name in ("own", "other"):
        key = ed25519.Ed25519PrivateKey.generate()
        pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        (folder / f"{name}.pem").write_bytes(pem)
        public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    return [folder / "own.pem", folder / "own.pub", folder / "other.pem"]
