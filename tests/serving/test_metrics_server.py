"""Metrics server: the answers of the metrics port, and the limits on its peers."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from prometheus_client import CollectorRegistry, Counter

from nested_sparse.serving.metrics_server import HEAD_BYTES, MetricsLimits, MetricsServer
from nested_sparse.serving.security import Security, SecurityConfig
from nested_sparse.serving.server import ServerConfig

QUICK = MetricsLimits(connections=4, request_s=0.3, answer_s=0.3)
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def serving(
    limits: MetricsLimits | None = None, lines: int = 1, security: SecurityConfig | None = None
) -> Iterator[tuple[str, int]]:
    """A metrics server of one counter with `lines` labels of 2 kB, in a thread; its address."""
    registry = CollectorRegistry()
    counter = Counter("things", "Of some kind", ("kind",), registry=registry)
    for number in range(lines):
        counter.labels(f"{number:02000d}").inc()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> tuple[MetricsServer, int]:
        server = MetricsServer(registry, Security(security or SecurityConfig(), "127.0.0.1"), limits)
        return server, await server.start("127.0.0.1", 0)

    server, port = asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
    try:
        yield "127.0.0.1", port
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def answer(connection: socket.socket) -> tuple[str, dict[str, str], bytes]:
    """Status line, headers and body of the next answer."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        got = connection.recv(1)
        assert got, f"closed after {head!r}"
        head += got
    status, *lines = head.decode().split("\r\n")[:-2]
    headers = dict(line.split(": ", 1) for line in lines)
    body, nbytes = b"", int(headers["Content-Length"])
    while len(body) < nbytes:
        got = connection.recv(nbytes - len(body))  # not what belongs to the answer after it
        assert got, f"closed after {len(body)} bytes of {headers}"
        body += got
    return status, headers, body


def closed(connection: socket.socket) -> bool:
    connection.settimeout(30)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def ask(address: tuple[str, int], request: bytes) -> str:
    """The status line of one answer."""
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(request)
        return answer(connection)[0]


def scrape(address: str) -> str:
    return str(urllib.request.urlopen(f"http://{address}/metrics", timeout=30).read().decode())


def test_five_hundred_idle_connections(model, serve):
    """They cost no thread each, and a scrape still works."""
    with serve([model], ServerConfig(port=0, metrics_port=0)) as server, ExitStack() as idle:
        host, port = server.metrics_address.split(":")
        assert "nested_sparse_queue_length" in scrape(server.metrics_address)
        before = threading.active_count()
        for _ in range(500):
            idle.enter_context(socket.create_connection((host, int(port)), timeout=30))
        for _ in range(3):
            assert "nested_sparse_queue_length" in scrape(server.metrics_address)
        assert threading.active_count() <= before + 4  # a pool's, not one for each


def test_connections_are_kept_and_the_longest_silent_one_goes():
    """One connection for all scrapes; where too many come, who has said nothing for the longest makes room."""
    with serving(QUICK_CONNECTIONS) as address, ExitStack() as stack:
        scraper, *others = (stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(4))
        for connection in (*others, scraper):
            connection.sendall(GET)
            status, headers, _ = answer(connection)
            assert (status, headers["Connection"]) == ("HTTP/1.1 200 OK", "keep-alive")
        fifth = stack.enter_context(socket.create_connection(address, timeout=30))
        fifth.sendall(GET)
        assert answer(fifth)[0] == "HTTP/1.1 200 OK"
        assert closed(others[0])
        scraper.sendall(GET + GET)
        assert answer(scraper)[2].startswith(b"# HELP things_total")
        assert answer(scraper)[2].startswith(b"# HELP things_total")


QUICK_CONNECTIONS = MetricsLimits(connections=4)


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET /metrics HTTP/1.1\r\nHost: x\r\n", GET])
def test_a_slow_client_is_closed(sent):
    """It is closed before a whole request and after an answer, also with a byte now and then."""
    with serving(QUICK) as address, socket.create_connection(address, timeout=30) as connection:
        connection.sendall(sent)
        for byte in b"X-More: " * 3:
            time.sleep(0.02)
            try:
                connection.sendall(bytes([byte]))
            except OSError:
                break
        assert closed(connection)


def test_a_peer_that_does_not_read_is_closed():
    """A peer that takes nothing of a long answer does not keep it."""
    with serving(QUICK, lines=5_000) as address, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        connection.sendall(GET)
        time.sleep(1)
        assert closed(connection)
        assert ask(address, GET.replace(b"/metrics", b"/other")) == "HTTP/1.1 404 Not Found"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.0\r\n\r\n", "200 OK"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK"),
        (b"GET /metrics?name[]=things_total HTTP/1.1\r\n\r\n", "200 OK"),
        (b"GET /other HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405 Method Not Allowed"),
        (b"GET http://x/metrics HTTP/1.1\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics HTTP/2.0\r\n\r\n", "400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", "400 Bad Request"),
        (b"\r\n\r\n", "400 Bad Request"),
        (b"GET /" + b"x" * HEAD_BYTES + b" HTTP/1.1\r\n\r\n", "431 Request Header Fields Too Large"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * HEAD_BYTES + b"\r\n", "431 Request Header Fields Too Large"),
    ],
)
def test_the_next_client_gets_an_answer_after_any_request(request_, status):
    """The next client still gets an answer."""
    with serving() as address:
        assert ask(address, request_) == f"HTTP/1.1 {status}"
        assert ask(address, GET) == "HTTP/1.1 200 OK"


def test_head_has_the_length_and_no_body():
    with serving() as address, socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"HEAD /metrics HTTP/1.1\r\nConnection: close\r\n\r\n")
        got = b""
        while part := connection.recv(4096):
            got += part
        head, _, body = got.partition(b"\r\n\r\n")
        assert b"Content-Length: 0" not in head
        assert b"Content-Length: " in head
        assert body == b""


def test_the_form_is_the_clients_choice():
    """OpenMetrics where it is asked for, as Prometheus does."""
    with serving() as (host, port):
        request = urllib.request.Request(
            f"http://{host}:{port}/metrics", headers={"Accept": "application/openmetrics-text"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            assert response.read().endswith(b"# EOF\n")
