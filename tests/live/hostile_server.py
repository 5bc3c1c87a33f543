"""A server that speaks the control protocol and means no good, in a thread of the test.

It is made of the standard library and ``docs/protocol.rst``; only certificates come from
``cryptography``.  What it says is a list of *acts*, one for each connection (the last one again
and again): functions that take the :class:`Visit` and may do with it what they like.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.live.native import ANSWER, GOODBYE, HEARTBEAT, LOG_IN, PACKET, REGISTER, encode_frame

LEASE = {
    "success": True,
    "code": "ok",
    "address4": "10.99.0.2/24",
    "server4": "10.99.0.1",
    "routes": ["192.168.77.0/24"],
    "mtu": 1400,
    "heartbeat": 10,
    "expiry": 60,
}


def make_certificate(folder: Path) -> tuple[Path, str]:
    """A self-signed certificate with its key in one file, and its pin."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "office")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "hostile.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = base64.urlsafe_b64encode(hashlib.sha256(spki).digest()).rstrip(b"=").decode()
    return path, f"sha256:{digest}"


class Visit:
    """One connection of the client under test."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self._buffer = b""

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            piece = self.sock.recv(65536)
            if not piece:
                raise ConnectionResetError("the client closed")
            self._buffer += piece
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def read_frame(self) -> tuple[int, int, bytes]:
        (length,) = struct.unpack(">i", self.read(4))
        body = self.read(length)
        command, transaction = struct.unpack(">ii", body[:8])
        return command, transaction, body[8:]

    def agree(self, byte: bytes = b"\x01") -> None:
        """The version handshake."""
        assert struct.unpack(">d", self.read(8)) == (2.0,)
        self.sock.sendall(byte)

    def expect(self, wanted: int) -> tuple[int, dict[str, Any]]:
        """The transaction and the content of the next question, which must be *wanted*."""
        command, transaction, data = self.read_frame()
        assert command == wanted
        return transaction, json.loads(data)

    def answer(self, transaction: int, content: bytes | dict[str, Any]) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.sock.sendall(encode_frame(ANSWER, transaction, data))

    def take_in(self, lease: bytes | dict[str, Any]) -> None:
        """Version, log-in and registration, as a good server does them, up to *lease*."""
        self.agree()
        self.answer(self.expect(LOG_IN)[0], {"success": True, "code": "ok"})
        self.answer(self.expect(REGISTER)[0], lease)

    def stay(self, seconds: float) -> None:
        """Answer heartbeats, drop packets."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            command, transaction, _ = self.read_frame()
            if command == HEARTBEAT:
                self.answer(transaction, b"")
            elif command == GOODBYE:
                return
            else:
                assert command in (ANSWER, PACKET)


Act = Callable[[Visit], None]


class HostileServer:
    """Listens on *sock* and performs *acts*; a context manager.

    Attributes:
        visits: the time of each connection made, seconds of the monotonic clock.
        received: bytes that the client sent inside TLS beyond what the acts read.
    """

    def __init__(self, sock: socket.socket, certificate: Path, acts: Sequence[Act]) -> None:
        self._listener = sock
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.load_cert_chain(certificate)
        self._acts = acts
        self._stopped = False
        self.visits: list[float] = []
        self.trouble: list[AssertionError] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> HostileServer:
        self._listener.settimeout(0.1)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped = True
        self._thread.join(15)
        self._listener.close()

    def wait_for_visits(self, count: int, seconds: float = 20) -> None:
        """Until the client has come *count* times."""
        deadline = time.monotonic() + seconds
        while len(self.visits) < count:
            assert time.monotonic() < deadline, f"{len(self.visits)} visits in {seconds} s"
            time.sleep(0.02)

    def _serve(self) -> None:
        while not self._stopped:
            try:
                raw, _ = self._listener.accept()
            except TimeoutError:
                continue
            act = self._acts[min(len(self.visits), len(self._acts) - 1)]
            self.visits.append(time.monotonic())
            raw.settimeout(10)
            try:
                with self._context.wrap_socket(raw, server_side=True) as secured:
                    act(Visit(secured))
            except OSError:
                pass
            except AssertionError as error:
                self.trouble.append(error)
            finally:
                raw.close()
