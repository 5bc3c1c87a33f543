"""Somebody who sends without end over TCP, and somebody who takes it and says how much came.

``python bulk.py send|take ADDRESS PORT`` on one host, then the other verb on another host with
``--to`` before it. Whoever takes writes a line ``SECONDS BYTES``, both since the first byte,
several times a second: so nobody has to wait for the end of what is under way.
"""

from __future__ import annotations

import socket
import sys
import time


def send(connection: socket.socket) -> None:
    """Send until nobody takes it any more."""
    while True:
        connection.sendall(bytes(16384))


def take(connection: socket.socket) -> None:
    """Take until the end, and tell."""
    began, told, total = 0.0, 0.0, 0
    while count := len(connection.recv(65536)):
        now = time.monotonic()
        began = began or now
        total += count
        if now - told > 0.1:
            told = now
            print(f"{now - began:.3f} {total}", flush=True)  # noqa: T201 - that is its purpose


def main() -> None:
    """Do what the command line says."""
    *calling, verb, address, port = sys.argv[1:]
    if calling:
        connection = socket.create_connection((address, int(port)))
    else:
        with socket.create_server((address, int(port))) as listener:
            print("ready", flush=True)  # noqa: T201 - waited for
            connection, _ = listener.accept()
    with connection:
        {"send": send, "take": take}[verb](connection)


if __name__ == "__main__":
    main()
