"""REST over TLS: the certificates of the server and of its clients."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority

from nested_sparse.proto import messages
from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.server import Server, ServerConfig
from nested_sparse.serving.servicer import Servicer

AUTHORITY = Authority()
NAMES = ("x509_common_name", "x509_subject_alternative_name")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Files of a certificate and its key, for the server and for the client."""
    return AUTHORITY.issue(tmp_path)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list[bytes]]]:
    """The names of the client's certificate in each call for the server's metadata."""
    seen: list[dict[str, list[bytes]]] = []
    answer = Servicer.server_metadata

    async def spied(servicer: Servicer, request: Any, context: Any) -> Any:
        facts = context.auth_context()
        seen.append({name: list(facts.get(name, ())) for name in NAMES})
        return await answer(servicer, request, context)

    monkeypatch.setattr(Servicer, "server_metadata", spied)
    return seen


@pytest.fixture
def mutual(model: Any, serve: Any, tmp_path: Path, pair: tuple[Path, Path], seen: Any) -> Iterator[Server]:
    """A server that wants certificates of its clients."""
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    security = SecurityConfig(tls_cert=pair[0], tls_key=pair[1], client_ca=tmp_path / "ca.pem")
    with serve([model], ServerConfig(port=0, http_port=0, grace_s=5, security=security)) as server:
        yield server


def test_a_client_without_a_certificate_is_refused(mutual, pair):
    url = f"https://{mutual.http_address}/v2/health/ready"
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    for refused in (url, url.replace("https", "http")):
        with pytest.raises((OSError, ConnectionError)):
            urllib.request.urlopen(refused, timeout=30, context=context).close()
    context.load_cert_chain(*pair)
    with urllib.request.urlopen(url, timeout=30, context=context) as response:
        assert json.load(response) == {"ready": True}


def test_a_certificate_names_its_client_as_over_grpc(mutual, pair, seen):
    """By these names a client has its share of the queue."""
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    context.load_cert_chain(*pair)
    urllib.request.urlopen(f"https://{mutual.http_address}/v2", timeout=30, context=context).close()
    credentials = grpc.ssl_channel_credentials(AUTHORITY.pem, pair[1].read_bytes(), pair[0].read_bytes())
    with grpc.secure_channel(mutual.address, credentials) as channel:
        channel.unary_unary(f"/{messages.SERVICE_NAME}/ServerMetadata")(b"", timeout=30)
    over_rest, over_grpc = seen
    assert over_rest == over_grpc
    assert over_rest["x509_common_name"] == [b"localhost"]
