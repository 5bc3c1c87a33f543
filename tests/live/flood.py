"""Many connections that mean no good, from many addresses: run as a program beside the server.

``python flood.py KIND HOST PORT SECONDS COUNT SOURCE...`` opens COUNT connections; one that the
server closes is opened anew a little later, until SECONDS have passed; what is open then stays
open until this program is killed.  It prints how many it opened, and how many stay.
"""
# ruff: noqa: T201 - a program: what it prints is read by the tests

from __future__ import annotations

import asyncio
import random
import ssl
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from tests.live.native import LOG_IN, REGISTER, VERSION, encode_frame, trusting_context

BOMBS = (
    b"[" * 4000,
    b'{"a":' * 700 + b"1" + b"}" * 700,
    b'{"user":' + b"9" * 4000 + b"}",
    b'{"user":1e999999,"password":NaN}',
    b'{"user":"a","user":"b"}',
    b'{"user":"' + b"\\u0000" * 600 + b'","password":"x"}',
    b'{"user":"a","password":"\\ud800"}',
    b"\xff\xfe" * 1000,
    b'{"certificate_request":"' + b"A" * 3900 + b'"}',
)

Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def client_hello() -> bytes:
    """A real one, as OpenSSL makes it."""
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        trusting_context().wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


HELLO = client_hello()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing (inside TLS where the kind says so)."""


async def half_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HELLO[: len(HELLO) // 2])


async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for index in range(len(HELLO)):
        writer.write(HELLO[index : index + 1])
        await asyncio.sleep(1)


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(random.randbytes(random.randint(1, 20_000)))


async def inner_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(random.choice((b"", VERSION)) + random.randbytes(random.randint(1, 20_000)))


async def oversized(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    length = random.choice((-1, -(2**31), 2**31 - 1, 65_536, 4097))
    writer.write(VERSION + struct.pack(">i", length) + bytes(5000))


async def bombs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    chosen = random.choices(BOMBS, k=4)
    questions = [encode_frame(LOG_IN, n, bomb) for n, bomb in enumerate(chosen, 1)]
    writer.write(VERSION + b"".join(questions))


async def unasked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Everything but log-in."""
    junk = [encode_frame(random.choice((REGISTER, 2, 5, 6, 7, 8, -1, 2**31 - 1)), n % 3, b"{}")
            for n in range(50)]  # fmt: skip
    writer.write(VERSION + b"".join(junk))


async def slow_frame(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(VERSION)
    for byte in encode_frame(LOG_IN, 1, b" " * 100):
        writer.write(bytes([byte]))
        await asyncio.sleep(1)


# What to do, and whether inside TLS.
KINDS: dict[str, tuple[Act, bool]] = {
    "silence": (silent, False),
    "half a hello": (half_hello, False),
    "a byte a second": (drip, False),
    "garbage": (garbage, False),
    "silence in TLS": (silent, True),
    "garbage in TLS": (inner_garbage, True),
    "oversized frames": (oversized, True),
    "JSON bombs": (bombs, True),
    "everything but log-in": (unasked, True),
    "a frame a byte a second": (slow_frame, True),
}

_opened = 0
_open = 0


async def attack(kind: str, host: str, port: int, source: str, until: float) -> None:
    global _opened, _open
    act, tls = KINDS[kind]
    context = trusting_context() if tls else None
    await asyncio.sleep(random.random() * 2)
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection(
                host, port, local_addr=(source, 0), ssl=context
            )
        except (OSError, TimeoutError):
            await asyncio.sleep(random.uniform(1, 5))
            continue
        _opened += 1
        _open += 1
        try:
            await act(reader, writer)
            while await reader.read(65536):
                pass
        except OSError:
            pass
        writer.transport.abort()
        _open -= 1
        await asyncio.sleep(random.uniform(1, 10))


async def main() -> None:
    kind, host, port, seconds, count, *sources = sys.argv[1:]
    until = time.monotonic() + float(seconds)
    tasks = [
        asyncio.create_task(attack(kind, host, int(port), sources[n % len(sources)], until))
        for n in range(int(count))
    ]
    print("begun", flush=True)
    await asyncio.sleep(float(seconds))
    print("opened", _opened, "open", _open, flush=True)
    await asyncio.gather(*tasks)
    print("all closed", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
