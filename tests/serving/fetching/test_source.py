"""Source: answers of file servers that are odd, hostile, slow, or encrypted."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from certificates import Authority
from file_server import FileServer

from nested_sparse.errors import FetchError, InputError
from nested_sparse.serving.fetching.address import Address, is_url
from nested_sparse.serving.fetching.manifest import MOST_BYTES
from nested_sparse.serving.fetching.source import Source

DATA = bytes(range(256)) * 300
FILES = {"/net.safetensors": DATA, "/net.safetensors.manifest": b"manifest"}


def source(server: FileServer, **options: object) -> Source:
    return Source(Address(f"{server.url}/net.safetensors"), **{"timeout_s": 5.0, **options})  # type: ignore[arg-type]


def read(it: Source, begin: int = 1000, end: int = len(DATA)) -> bytes:
    return b"".join(it.stream(begin, end, len(DATA)))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_range_comes_from_any_server(ranges: bool) -> None:
    with FileServer(dict(FILES), ranges=ranges) as server:
        assert read(source(server)) == DATA[1000:]
        assert read(source(server), 5, 70_000) == DATA[5:70_000]
        assert read(source(server), 0, 1) == DATA[:1]


def test_a_manifest_is_sent_again_only_where_it_changed() -> None:
    with FileServer(dict(FILES)) as server:
        raw, tag = source(server).manifest() or (b"", "")
        assert raw == b"manifest"
        assert source(server).manifest(tag) is None
        server.files = {**FILES, "/net.safetensors.manifest": b"another"}
        assert (source(server).manifest(tag) or (b"", ""))[0] == b"another"
        server.etags = False
        assert source(server).manifest() == (b"another", "")


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"status": 404}, "answers 404"),
        ({"status": 416}, "answers 416"),
        ({"status": 500}, "answers 500"),
        ({"status": 204}, "answers 204"),
        ({"headers": {"Content-Encoding": "gzip"}}, "switch compression off"),
        ({"forged_range": 1}, "do not belong together"),
        ({"headers": {"Content-Range": "bytes 1000-76799/9"}}, "do not belong together"),
        ({"headers": {"Content-Range": "bytes 1000-" + "9" * 5000}}, "do not belong together"),
        ({"cut_after": 300}, "too early"),
        ({"headers": {"Content-Length": "9"}}, "too early"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "net.safetensors"),
        ({"stalled": True}, "timed out"),
        ({"redirects": {"/net.safetensors": "/net.safetensors"}}, "more than 5 times"),
        ({"redirects": {"/net.safetensors": "file:///etc/passwd"}}, "no URL of http"),
        ({"redirects": {"/net.safetensors": "http://[::1"}}, "no URL of http"),
        ({"redirects": {"/net.safetensors": "http://127.0.0.1:1/x"}}, "refused"),
    ],
)
def test_an_odd_answer_is_an_error_of_one_line(odd: dict[str, object], said: str) -> None:
    with FileServer(dict(FILES), **odd) as server:  # type: ignore[arg-type]
        with pytest.raises(FetchError, match=said) as caught:
            read(source(server, timeout_s=0.2 if "stalled" in odd else 5.0))
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600


def test_a_body_without_end_is_left_after_what_was_asked_for() -> None:
    with FileServer({"/net.safetensors": DATA, "/net.safetensors.manifest": b""}, endless=True) as server:
        assert read(source(server)) == DATA[1000:]
        assert len((source(server).manifest() or (b"", ""))[0]) == MOST_BYTES + 1


def test_a_secret_stays_with_its_host(tmp_path: Path) -> None:
    """A token goes to the address's own host, not where it redirects to; a query appears in no message."""
    (tmp_path / "token").write_text("sesame\n")
    with FileServer(dict(FILES)) as other, FileServer(dict(FILES)) as server:
        it = Source(Address(f"{server.url}/net.safetensors?key=hidden"), token_file=tmp_path / "token")
        assert read(it) == DATA[1000:]
        server.redirects = {"/net.safetensors": f"{other.url}/net.safetensors"}
        assert read(it) == DATA[1000:]
        assert {token for _, _, token in server.asked} == {"Bearer sesame"}
        assert {token for _, _, token in other.asked} == {""}
        server.redirects, server.status = {}, 500
        with pytest.raises(FetchError) as caught:
            read(it)
        assert "hidden" not in str(caught.value)
    for content in (b"two words", b"", b"\xff", b"x" * 10_000):
        (tmp_path / "token").write_bytes(content)
        with pytest.raises(FetchError, match="token file"):
            read(it)


def test_tls_takes_the_authority_that_was_named_and_no_other(tmp_path: Path) -> None:
    """Nor does it follow a redirect to a server without TLS."""
    authority = Authority()
    cert, key = authority.issue(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    (tmp_path / "other.pem").write_bytes(Authority("another").pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with FileServer(dict(FILES), tls=context) as server, FileServer(dict(FILES)) as plain:
        assert read(source(server, ca=tmp_path / "ca.pem")) == DATA[1000:]
        for ca in (None, tmp_path / "other.pem"):
            with pytest.raises(FetchError, match=r"CERTIFICATE_VERIFY_FAILED|certificate"):
                read(source(server, ca=ca))
        server.redirects = {"/net.safetensors": f"{plain.url}/net.safetensors"}
        with pytest.raises(FetchError, match="from https to http"):
            read(source(server, ca=tmp_path / "ca.pem"))
        assert plain.asked == []
        with pytest.raises(InputError, match="PEM"):
            source(server, ca=cert.with_name("missing"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://example.com/net.safetensors", "expected one as https"),
        ("https:///net.safetensors", "expected one as https"),
        ("https://example.com:99999/net.safetensors", "URL"),
        ("https://[::1/net.safetensors", "URL"),
        ("https://me:secret@example.com/net.safetensors", "--fetch-token-file"),
        ("https://example.com/", "a file's name"),
        ("https://example.com/.safetensors", "a file's name"),
        ("https://example.com/%2e%2e", "a file's name"),
        ("https://example.com/a%2f..", "a file's name"),
        ("https://example.com/a%0ab", "a file's name"),
        ("https://example.com/net.safetensors.manifest", "name the file, without .manifest"),
        ("https://example.com/my net.safetensors", "write its path as /my%20net.safetensors"),
        ("https://example.com/nät.safetensors?x=secret", "write its path as /n%C3%A4t.safetensors"),
        ("https://example.com/" + "a" * 5000, "expected one as https"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        Address(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "meant"), [("s3://a/net", True), ("HTTP://a/b", True), ("a/b", False), ("a:b", False)]
)
def test_a_text_with_a_scheme_is_meant_as_a_url(text: str, meant: bool) -> None:
    """So that one of another scheme is refused as such, not as a file that is not there."""
    assert is_url(text) == meant


def test_a_missing_manifest_is_told_from_a_missing_file() -> None:
    with FileServer({"/net.safetensors": DATA}) as server:
        with pytest.raises(
            FetchError, match=r"net\.safetensors\.manifest: the file server answers 404 .* publish FILE"
        ):
            source(server).manifest()
        server.files = {}
        with pytest.raises(FetchError, match=r"net\.safetensors: the file server answers 404 Not Found$"):
            read(source(server))


def test_a_model_is_named_after_its_file() -> None:
    assert Address("https://example.com/a/b/net.safetensors?x=1").name == "net"
    assert Address("http://[::1]:8080/my%20net.v2.safetensors").name == "my net.v2"
