"""Many clients in one process, without a TUN: a second implementation of docs/protocol.rst.

It shares no line with the product but the making of certificate requests, so it also shows that
the document is enough.  It does what it is told, also what an honest client never would.

``python -m tests.live.swarm [SESSIONS]`` measures what sessions cost a server in memory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import ssl
import struct
import sys
import tempfile
import time
from collections.abc import Iterable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pyvpn.crypto.certificates import make_key, make_request

REGISTER, PACKET, LOG_IN, HEARTBEAT, GOODBYE, SETTINGS, NOTICE = range(1, 8)
ANSWER = -1
HEARTBEAT_SECONDS = 10.0
AT_ONCE = 2
"""Log-ins at a time: of more, a server that throttles by source would turn some away."""

_HEAD = struct.Struct("!iii")
_KEY = make_key()  # one does for devices without secrets
_REQUEST = make_request(_KEY, "swarm").decode()


def _contexts(certificate: str = "") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the pin says more
    context.verify_mode = ssl.CERT_NONE
    if certificate:
        with tempfile.NamedTemporaryFile() as file:  # that module takes files only
            file.write(_KEY + certificate.encode())
            file.flush()
            context.load_cert_chain(file.name)
    return context


_CONTEXT = _contexts()


def pin_of(certificate: bytes) -> str:
    """The pin of a DER certificate, as the document has it."""
    public = x509.load_der_x509_certificate(certificate).public_key()
    key = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "sha256:" + base64.urlsafe_b64encode(hashlib.sha256(key).digest()).decode().strip("=")


class SwarmClient:
    """One connection; ``connect`` first, then what the test wants."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self.notices: list[dict[str, Any]] = []
        self.settings: list[dict[str, Any]] = []
        self.lease: dict[str, Any] = {}
        self.certificate = ""
        self._context = _CONTEXT
        self.closed = asyncio.Event()
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._last_id = 0

    async def connect(self, host: str, port: int, pin: str) -> SwarmClient:
        """Connect, verify the server, and agree on the version."""
        self._reader, self._writer = await asyncio.open_connection(host, port, ssl=self._context)
        tls = self._writer.get_extra_info("ssl_object")
        assert pin_of(tls.getpeercert(binary_form=True)) == pin
        self._writer.write(struct.pack("!d", 2.0))
        accepted = await self._reader.readexactly(1)
        assert accepted == b"\x01", accepted
        self._listening = asyncio.create_task(self._listen())
        return self

    async def ask(self, command: int, question: dict[str, Any] | None = None) -> dict[str, Any]:
        """Put a question and return its answer; empty for one without JSON."""
        self._last_id += 1
        future = asyncio.get_running_loop().create_future()
        self._answers[self._last_id] = future
        data = b"" if question is None else json.dumps(question).encode()
        self._send(command, self._last_id, data)
        answer = await asyncio.wait_for(future, 15)
        return json.loads(answer) if answer else {}

    async def log_in(self, user: str, password: str) -> dict[str, Any]:
        """Log in as a new device."""
        answer = await self.ask(
            LOG_IN,
            {
                "user": user,
                "password": password,
                "device": "swarm",
                "certificate_request": _REQUEST,
            },
        )
        self.certificate = answer.get("certificate", "")
        return answer

    def again(self) -> SwarmClient:
        """The same device for another connection: it will show its certificate."""
        client = SwarmClient()
        client.certificate, client._context = self.certificate, _contexts(self.certificate)
        return client

    async def register(self, **wishes: str) -> dict[str, Any]:
        """Ask for addresses."""
        self.lease = await self.ask(REGISTER, wishes)
        return self.lease

    def send_packet(self, packet: bytes) -> None:
        """Send an inner packet, whatever it is."""
        self._send(PACKET, 0, packet)

    async def leave(self) -> None:
        """Say goodbye and wait until the server has closed."""
        self._send(GOODBYE, 0)
        await asyncio.wait_for(self.closed.wait(), 5)
        self.drop()

    def drop(self) -> None:
        """End the connection without a word."""
        self._listening.cancel()
        self._writer.transport.abort()

    def _send(self, command: int, transaction: int, data: bytes = b"") -> None:
        self._writer.write(_HEAD.pack(8 + len(data), command, transaction) + data)

    async def _listen(self) -> None:
        try:
            while True:
                length, command, transaction = _HEAD.unpack(await self._reader.readexactly(12))
                self._received(command, transaction, await self._reader.readexactly(length - 8))
        except (OSError, asyncio.IncompleteReadError):
            self.closed.set()
            for future in self._answers.values():
                if not future.done():
                    future.set_exception(ConnectionError("closed before the answer"))

    def _received(self, command: int, transaction: int, data: bytes) -> None:
        if command == ANSWER:
            self._answers.pop(transaction).set_result(data)
        elif command == PACKET:
            self.packets.append(data)
        elif command == NOTICE:
            self.notices.append(json.loads(data))
        elif command == SETTINGS:
            self.settings.append(json.loads(data))
            self._send(ANSWER, transaction, b'{"success": true, "code": "ok"}')


class Swarm:
    """Clients of one server that are logged in, registered, and keep their heartbeats.

    Use it as an asynchronous context manager; at its end those that are left drop out.
    """

    def __init__(self, host: str, port: int, pin: str, password: str) -> None:
        self.clients: list[SwarmClient] = []
        self.refusals: list[dict[str, Any]] = []
        self._where = (host, port, pin)
        self._password = password
        self._few = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> Swarm:
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._beating.cancel()
        for client in self.clients:
            client.drop()

    async def join(self, user: str) -> SwarmClient | None:
        """Add a device of *user*; None if the server has no address for it."""
        async with self._few:
            client = await SwarmClient().connect(*self._where)
            answer = await client.log_in(user, self._password)
            assert answer["success"], answer
            if not (await client.register())["success"]:
                self.refusals.append(client.lease)
                client.drop()
                return None
        self.clients.append(client)
        return client

    async def join_all(self, users: Iterable[str]) -> None:
        """Add a device for each of *users*, which may be named repeatedly."""
        await asyncio.gather(*(self.join(user) for user in users))

    async def leave(self, client: SwarmClient) -> None:
        self.clients.remove(client)
        await client.leave()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            for client in list(self.clients):
                if not client.closed.is_set():
                    await client.ask(HEARTBEAT)


def measure(sessions: int) -> None:
    """Print what a server needs idle, and for *sessions* sessions."""
    from contextlib import ExitStack
    from pathlib import Path

    from pyvpn.testing import sandbox, vpn
    from pyvpn.testing.lab import SERVER_ADDRESS, Lab
    from tests.live.office import Office, add_accounts, tell

    sandbox.enter()
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        office = Office(lab)
        more = "[tunnel]\nnetwork4 = 10.99.0.0/20\nnetwork6 = fd99::/64\n"
        server = office.open(more, users=())
        users = add_accounts(office, sessions)
        status = Path(f"/proc/{server.process.pid}/status")

        def memory() -> int:  # KiB
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            return int(lines["VmRSS"].split()[0])

        time.sleep(2)
        idle = memory()
        tell(f"idle server: {idle / 1024:.1f} MiB RSS")

        async def grow() -> None:
            pin = office.link.partition("pin=")[2]
            async with Swarm(SERVER_ADDRESS, 51820, pin, vpn.PASSWORD) as swarm:
                began = time.monotonic()
                await swarm.join_all(users[:1])
                first = memory()
                await swarm.join_all(users[1:])
                seconds = time.monotonic() - began
                tell(f"{sessions} log-ins by password: {seconds:.1f} s")
                assert len(swarm.clients) == sessions, swarm.refusals[:3]
                await asyncio.sleep(12)  # heartbeats of all
                assert not any(client.closed.is_set() for client in swarm.clients)
                now = memory()
                tell(
                    f"with {sessions} sessions: {now / 1024:.1f} MiB RSS; "
                    f"{(now - idle) / sessions:.1f} KiB each, "
                    f"{(now - first) / max(1, sessions - 1):.1f} KiB each after the first"
                )

        with lab.hosts["laptop"].inside():
            asyncio.run(grow())
        office.close()


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
