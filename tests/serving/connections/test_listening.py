"""Listening: a message with reason and next step for each address that cannot be used."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from nested_sparse.errors import ServingError
from nested_sparse.serving.connections.listening import ADVICE, check_listenable


def refusal(host: str, port: int = 0) -> str:
    with pytest.raises(ServingError) as caught:
        check_listenable(host, port)
    return str(caught.value)


@pytest.mark.parametrize("host", ["256.1.1.1", "no-such-name.invalid", "::g", "a b", "", "x" * 70 + ".invalid", ".."])
def test_neither_an_address_nor_a_name(host, monkeypatch):
    """Nothing uses it, so nothing is to be stopped. The name service is not asked: it may be slow."""

    def unknown(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if not host.startswith(("x", "..")):  # what Python itself refuses
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    message = refusal(host)
    assert f"host '{host}'" in message
    assert "neither an address nor a name" in message
    assert "127.0.0.1" in message
    assert "stop what uses it" not in message


@pytest.mark.parametrize("host", ["*", "127.1", "0x7f.1", "2130706433", "127.0.0.01"])
def test_forms_that_the_system_takes_and_grpc_does_not(host):
    """Nothing would listen later; so they are refused at once, with the same message."""
    assert "neither an address nor a name" in refusal(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "0.0.0.0"])
def test_addresses_of_this_machine(host):
    check_listenable(host, 0)


def test_hosts_in_other_peoples_writing():
    assert "without brackets, '::1'" in refusal("[::1]")
    assert "give that as --port" in refusal("127.0.0.1:8001")
    assert "\x1b" not in refusal("\x1b[31m")


def test_another_machines_address():
    message = refusal("203.0.113.1")  # kept for documents, RFC 5737
    assert "no address of this machine" in message
    assert "stop what uses it" not in message


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = refusal("127.0.0.1", port)
    assert message.startswith(f"cannot listen on 127.0.0.1:{port}: Address already in use; stop what uses it")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EADDRNOTAVAIL, errno.EINVAL, errno.EAFNOSUPPORT, errno.ENOBUFS])
def test_other_reasons_of_the_system_have_their_own_advice(monkeypatch, number):
    """Each reason of the system has its own advice."""

    class Refusing(socket.socket):
        def bind(self, address):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr("nested_sparse.serving.connections.listening.socket.socket", Refusing)
    message = refusal("127.0.0.1", 80)
    assert message.startswith(f"cannot listen on 127.0.0.1:80: {os.strerror(number)}; ")
    assert message.endswith(ADVICE.get(number, "choose another address or port"))
    assert "stop what uses it" not in message
