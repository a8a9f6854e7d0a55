"""TLS: encrypted ports, certificates of clients, and rotation under load."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from certificates import Authority
from clients import X, infer_stub, tensor, triton, typed_request, wait_for

from nested_sparse.serving.security import SecurityConfig
from nested_sparse.serving.server import ServerConfig

AUTHORITY, OTHER = Authority(), Authority("another CA")


@contextmanager
def secured(serve: Any, model: Any, folder: Path, **more: Any) -> Iterator[Any]:
    cert, key = AUTHORITY.issue(folder)
    security = SecurityConfig(tls_cert=cert, tls_key=key, **more)
    with serve([model], ServerConfig(port=0, metrics_port=0, grace_s=5, security=security)) as it:
        yield it


def outcome(server: Any, roots: bytes, pair: tuple[Path, Path] | None = None, token: str = "") -> grpc.StatusCode:
    """The status of an inference over a new connection."""
    cert, key = (None, None) if pair is None else (pair[0].read_bytes(), pair[1].read_bytes())
    credentials = grpc.ssl_channel_credentials(roots, key, cert)
    with grpc.secure_channel(server.address, credentials, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return infer_stub(channel).future(typed_request(), metadata=metadata, timeout=20).code()


def metrics(server: Any, roots: bytes, pair: tuple[Path, Path] | None = None, token: str = "") -> int:
    """The HTTP status of the metrics over a new connection; 0 where the handshake fails."""
    context = ssl.create_default_context(cadata=roots.decode())
    if pair is not None:
        context.load_cert_chain(*pair)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"https://{server.metrics_address}/metrics", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (ssl.SSLError, urllib.error.URLError, ConnectionError):
        return 0


OK, DOWN = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


def test_unmodified_clients_speak_tls(model: Any, serve: Any, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(AUTHORITY.pem)
    with (
        secured(serve, model, tmp_path) as server,
        triton.InferenceServerClient(server.address, ssl=True, root_certificates=str(tmp_path / "ca.pem")) as client,
    ):
        np.testing.assert_array_equal(client.infer("net", [tensor()]).as_numpy("double"), 2 * X)
        assert metrics(server, AUTHORITY.pem) == 200


def test_nothing_is_answered_without_tls(model: Any, serve: Any, tmp_path: Path) -> None:
    with secured(serve, model, tmp_path) as server:
        with grpc.insecure_channel(server.address) as channel:
            assert infer_stub(channel).future(typed_request(), timeout=20).code() is DOWN
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=20)
        assert not model.engine.requests
        assert outcome(server, OTHER.pem) is DOWN, "a client took a certificate that its CA did not sign"
        assert outcome(server, AUTHORITY.pem) is OK


def test_clients_without_a_certificate_of_the_ca_are_refused(model: Any, serve: Any, tmp_path: Path) -> None:
    (tmp_path / "clients.pem").write_bytes(AUTHORITY.pem)
    good = AUTHORITY.issue(tmp_path, "good")
    bad = [OTHER.issue(tmp_path, "foreign"), AUTHORITY.issue(tmp_path, "expired", days=-1), None]
    with secured(serve, model, tmp_path, client_ca=tmp_path / "clients.pem") as server:
        for pair in bad:
            assert outcome(server, AUTHORITY.pem, pair) is DOWN
            assert metrics(server, AUTHORITY.pem, pair) == 0
        assert not model.engine.requests
        assert outcome(server, AUTHORITY.pem, good) is OK
        assert metrics(server, AUTHORITY.pem, good) == 200
        assert [request.client for request in model.engine.requests] == ["good"]


def test_a_new_certificate_is_used_without_a_restart(model: Any, serve: Any, tmp_path: Path) -> None:
    """Open connections go on; new ones meet the new certificate. A wrong one in between changes nothing."""
    with secured(serve, model, tmp_path) as server:
        roots = grpc.ssl_channel_credentials(AUTHORITY.pem)
        with grpc.secure_channel(server.address, roots) as channel:
            old = infer_stub(channel)
            old(typed_request(), timeout=20)
            (tmp_path / "localhost.pem").write_bytes(b"half a certif")
            for rotation in server.security.rotations:
                assert not rotation.look()
                assert not rotation.look()
            assert outcome(server, AUTHORITY.pem) is OK
            OTHER.issue(tmp_path)
            assert wait_for(lambda: outcome(server, OTHER.pem) is OK, 20)
            assert outcome(server, AUTHORITY.pem) is DOWN
            assert wait_for(lambda: metrics(server, OTHER.pem) == 200, 20)
            assert metrics(server, AUTHORITY.pem) == 0
            old(typed_request(), timeout=20)


def test_no_call_fails_while_certificates_and_tokens_change(model: Any, serve: Any, tmp_path: Path) -> None:
    """New connections all the time, and new files in between."""
    tokens, token = tmp_path / "tokens", "inference-0123456789abc"
    tokens.write_text(f"a inference {token}\n", encoding="utf-8")
    over, outcomes = threading.Event(), Counter[grpc.StatusCode]()

    def call() -> None:
        while not over.is_set():
            outcomes[outcome(server, AUTHORITY.pem, token=token)] += 1

    with secured(serve, model, tmp_path, token_file=tokens) as server:
        threads = [threading.Thread(target=call) for _ in range(3)]
        for each in threads:
            each.start()
        for number in range(4):
            AUTHORITY.issue(tmp_path)
            tokens.write_text(f"a inference {token}\nb{number} inference {token}-{number}\n", encoding="utf-8")
            used = [(rotation, rotation.value) for rotation in server.security.rotations]
            assert wait_for(lambda used=used: all(rotation.value is not old for rotation, old in used), 20)
        over.set()
        for each in threads:
            each.join()
    assert set(outcomes) == {OK}
    assert outcomes[OK] > 10


def test_a_client_ca_is_rotated_without_a_restart(model: Any, serve: Any, tmp_path: Path) -> None:
    ca = tmp_path / "clients.pem"
    ca.write_bytes(AUTHORITY.pem)
    first, second = AUTHORITY.issue(tmp_path, "first"), OTHER.issue(tmp_path, "second")
    with secured(serve, model, tmp_path, client_ca=ca) as server:
        assert outcome(server, AUTHORITY.pem, second) is DOWN
        ca.write_bytes(AUTHORITY.pem + OTHER.pem)
        assert wait_for(lambda: outcome(server, AUTHORITY.pem, second) is OK, 20)
        assert outcome(server, AUTHORITY.pem, first) is OK
        assert metrics(server, AUTHORITY.pem, first) == 200
        ca.write_bytes(OTHER.pem)
        assert wait_for(lambda: outcome(server, AUTHORITY.pem, first) is DOWN, 20)
        assert metrics(server, AUTHORITY.pem, first) == 0
        assert metrics(server, AUTHORITY.pem, second) == 200


def test_metrics_take_the_right_of_reading(model: Any, serve: Any, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a reading reading-0123456789abcdef\nb inference inference-0123456789abc\n", encoding="utf-8")
    with secured(serve, model, tmp_path, token_file=tokens) as server:
        assert metrics(server, AUTHORITY.pem) == 401
        assert metrics(server, AUTHORITY.pem, token="unknown-0123456789abcdef") == 401
        assert metrics(server, AUTHORITY.pem, token="inference-0123456789abc") == 403
        assert metrics(server, AUTHORITY.pem, token="reading-0123456789abcdef") == 200


def test_waits_in_front_are_measured_beside_tls(model: Any, serve: Any, tmp_path: Path) -> None:
    """The server's calls to itself need no certificate, and none of its socket is left behind."""
    with secured(serve, model, tmp_path) as server:
        door = Path(server._door.address.removeprefix("unix:"))
        assert door.exists()
        assert door.parent.stat().st_mode & 0o777 == 0o700
        credentials = grpc.ssl_channel_credentials(AUTHORITY.pem)
        with grpc.secure_channel(server.address, credentials) as channel:
            infer = infer_stub(channel)

            def measured() -> bool:
                infer(typed_request(), timeout=20)
                return bool(server._metrics.registry.get_sample_value("nested_sparse_front_wait_seconds"))

            assert wait_for(measured, 60)
    assert not door.parent.exists()
