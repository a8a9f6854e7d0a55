"""REST over TLS: the certificates of the server and of its clients."""

from __future__ import annotations

import json
import ssl
import urllib.request

import pytest
from certificates import Authority

from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.server import ServerConfig


def test_rest_speaks_tls(model, serve, tmp_path):
    """Under the server's certificate, and with a client's where the server wants one."""
    authority = Authority()
    cert, key = authority.issue(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    security = SecurityConfig(tls_cert=cert, tls_key=key, client_ca=tmp_path / "ca.pem")
    with serve([model], ServerConfig(port=0, http_port=0, grace_s=5, security=security)) as server:
        url = f"https://{server.http_address}/v2/health/ready"
        context = ssl.create_default_context(cadata=authority.pem.decode())
        with pytest.raises((OSError, ConnectionError)):
            urllib.request.urlopen(url, timeout=30, context=context).close()
        with pytest.raises((OSError, ConnectionError)):
            urllib.request.urlopen(url.replace("https", "http"), timeout=30).close()
        context.load_cert_chain(cert, key)
        with urllib.request.urlopen(url, timeout=30, context=context) as response:
            assert json.load(response) == {"ready": True}
