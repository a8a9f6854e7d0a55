"""Self-test: a handshake in memory, which shows what a client would say to the server's certificate."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

ROUNDS = 10
"""More flights than a handshake has."""
log = logging.getLogger(__name__)


def end_of(context: ssl.SSLContext, chain: str, path: Path) -> float | None:
    """The time, in seconds since the epoch, at which the certificate of the server's `context` ends.

    chain: the same certificates in PEM; the client of the test trusts them. path: of their file, for the log. None,
    with a warning, where a client would not take the certificate: out of its time, or not made for servers.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # the name under which clients know this server is not known here
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trusts the server's own certificate, whoever signed it
    try:
        client.load_verify_locations(cadata=chain)
        certificate = _handshake(client, context)
    except ssl.SSLCertVerificationError as error:
        log.warning("--tls-cert %s: clients will refuse it: %s", path, error.verify_message)
        return None
    except (OSError, ValueError) as error:  # of a kind that Python cannot try; gRPC may take it
        log.warning("--tls-cert %s: could not be tried: %s", path, error)
        return None
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, object]:
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)]
    for _ in range(ROUNDS):
        done = 0
        for end in ends:
            try:
                end.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                pass
        if done == len(ends):
            break
    return dict(ends[0].getpeercert() or {"notAfter": ""})
