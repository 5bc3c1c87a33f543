"""Measures throughput over TCP with nothing but Python: a small stand-in for iperf3.

``python -m pyvpn.testing.traffic serve ADDRESS PORT`` on one host, then, on another,
``python -m pyvpn.testing.traffic measure ADDRESS PORT up|down SECONDS`` prints Mbit/s.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from contextlib import suppress

CHUNK = bytes(256 * 1024)
PATIENCE = 10.0  # seconds without a byte, after which a measurement has failed
_COUNT = struct.Struct("!Q")


def serve(address: str, port: int) -> None:
    """Answer measurements for ever, one after the other."""
    with socket.create_server((address, port)) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # whoever measures may leave at any time
                connection.settimeout(PATIENCE)
                if connection.recv(1) == b"u":
                    connection.sendall(_COUNT.pack(_receive(connection)))
                else:
                    while True:
                        connection.sendall(CHUNK)


def measure(address: str, port: int, direction: str, seconds: float) -> float:
    """Send (``up``) or receive (``down``) for *seconds*; return Mbit/s that arrived (10**6 bit).

    What counts for ``up`` is what the other side says it has, when it says so.
    """
    with socket.create_connection((address, port), PATIENCE) as connection:
        start = time.monotonic()
        if direction == "up":
            connection.sendall(b"u")
            while time.monotonic() - start < seconds:
                connection.sendall(CHUNK)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.makefile("rb").read(_COUNT.size)
            arrived: int = _COUNT.unpack(answer)[0]
        else:
            connection.sendall(b"d")
            arrived = _receive(connection, until=start + seconds)
        return arrived * 8 / 1e6 / (time.monotonic() - start)


def _receive(connection: socket.socket, until: float = float("inf")) -> int:
    """Read to the end, or *until* that moment; return the number of bytes."""
    total, buffer = 0, bytearray(len(CHUNK))
    while time.monotonic() < until and (count := connection.recv_into(buffer)):
        total += count
    return total


def main() -> None:
    """Do what the command line says."""
    verb, address, port, *rest = sys.argv[1:]
    if verb == "serve":
        serve(address, int(port))
    else:
        direction, seconds = rest
        print(f"{measure(address, int(port), direction, float(seconds)):.1f}")


if __name__ == "__main__":
    main()
