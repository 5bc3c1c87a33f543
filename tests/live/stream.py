"""Bytes without end at an even pace, and somebody who takes them and tells what came.

``python -m tests.live.stream serve ADDRESS PORT`` on one host and, on another,
``python -m tests.live.stream take ADDRESS PORT SEED``. Whoever takes writes a line ``BYTES`` once
a second and, ended by SIGTERM, ``BYTES SHA256``; :func:`digest` says what it must be. So a story
takes as long as it takes, and a transfer is under way in all of it.
"""

from __future__ import annotations

import hashlib
import signal
import socket
import sys
import threading
import time
from random import Random
from typing import NoReturn

BLOCK = 16_384
PAUSE = 1 / 32
"""Between two blocks: 512 KiB a second."""


def digest(seed: int, count: int) -> str:
    """The SHA-256 of the first *count* bytes of a stream."""
    chance, found = Random(seed), hashlib.sha256()
    for _ in range(count // BLOCK):
        found.update(chance.randbytes(BLOCK))
    found.update(chance.randbytes(BLOCK)[: count % BLOCK])
    return found.hexdigest()


def _send(connection: socket.socket) -> None:
    with connection:
        chance = Random(int.from_bytes(connection.recv(8), "big"))
        try:
            while True:
                connection.sendall(chance.randbytes(BLOCK))
                time.sleep(PAUSE)
        except OSError:
            return


def serve(address: str, port: int) -> NoReturn:
    """Send to everybody who comes."""
    with socket.create_server((address, port)) as listener:
        print("ready", flush=True)  # noqa: T201 - waited for
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_send, args=(connection,), daemon=True).start()


def take(address: str, port: int, seed: int) -> None:
    """Take what comes until it ends, which it must not, or until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    found, count, told = hashlib.sha256(), 0, 0.0
    with socket.create_connection((address, port)) as connection:
        connection.sendall(seed.to_bytes(8, "big"))
        try:
            while data := connection.recv(65_536):
                # Not between these two, or the digest would not be of what is counted.
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
                found.update(data)
                count += len(data)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
                if time.monotonic() - told > 1:
                    told = time.monotonic()
                    print(count, flush=True)  # noqa: T201 - that is its purpose
            sys.exit("the stream has ended")
        except SystemExit:
            print(count, found.hexdigest(), flush=True)  # noqa: T201
            raise


if __name__ == "__main__":
    verb, address, port, *rest = sys.argv[1:]
    if verb == "serve":
        serve(address, int(port))
    take(address, int(port), int(rest[0]))
