"""Another implementation of the control protocol, from ``docs/protocol.rst`` alone.

Blocking, on the standard library's ``ssl``; it imports nothing of pyvpn, and it does what a real
client would not: send anything, at any time, or stop reading.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ANSWER, REGISTER, PACKET, LOG_IN, HEARTBEAT, GOODBYE, SETTINGS, NOTICE = -1, 1, 2, 3, 4, 5, 6, 7
VERSION = struct.pack(">d", 2.0)


def encode_frame(command: int, transaction: int, data: bytes = b"") -> bytes:
    return struct.pack(">iii", 8 + len(data), command, transaction) + data


def trusting_context() -> ssl.SSLContext:
    """TLS 1.3 with whoever answers: for tests of the server only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def certificate_request() -> str:
    """For a fresh key, which is thrown away."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


class Talk:
    """One connection to the server, up to the version handshake."""

    def __init__(self, sock: socket.socket, timeout: float = 10) -> None:
        sock.settimeout(timeout)
        try:
            self.sock = trusting_context().wrap_socket(sock)
        except OSError:
            sock.close()
            raise
        self._transaction = 0
        self._buffer = b""
        try:
            self.sock.sendall(VERSION)
            accepted = self.read(1) == b"\x01"
        except OSError:
            self.close()
            raise
        assert accepted

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            piece = self.sock.recv(65536)
            if not piece:
                raise ConnectionResetError("closed")
            self._buffer += piece
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def read_frame(self) -> tuple[int, int, bytes]:
        (length,) = struct.unpack(">i", self.read(4))
        body = self.read(length)
        command, transaction = struct.unpack(">ii", body[:8])
        return command, transaction, body[8:]

    def ask(self, command: int, **fields: Any) -> dict[str, Any]:
        """Put a question and return the answer; what comes meanwhile is forgotten."""
        return self.ask_raw(command, json.dumps(fields).encode())

    def ask_raw(self, command: int, data: bytes) -> dict[str, Any]:
        self._transaction += 1
        self.sock.sendall(encode_frame(command, self._transaction, data))
        while True:
            kind, transaction, answer = self.read_frame()
            if (kind, transaction) == (ANSWER, self._transaction):
                found: dict[str, Any] = json.loads(answer or b"{}")
                return found

    def log_in(self, user: str, password: str) -> dict[str, Any]:
        request = certificate_request()
        return self.ask(LOG_IN, user=user, password=password, certificate_request=request)

    def register(self) -> dict[str, Any]:
        return self.ask(REGISTER)

    def say(self, command: int, data: bytes = b"") -> None:
        self.sock.sendall(encode_frame(command, 0, data))

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
