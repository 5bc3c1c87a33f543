"""A name server for one zone: ``python -m tests.live.names ADDRESS FILE``.

Every name has the IPv4 address that FILE holds at the moment, and no other; while the file is
empty it hears, and does not answer.
"""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import ip_address
from pathlib import Path

A = 1


def answer(question: bytes, address: str) -> bytes:
    """The answer to a query with one question."""
    end = question.index(b"\0", 12) + 5
    (kind,) = struct.unpack_from("!H", question, end - 4)
    found = kind == A
    header = question[:2] + struct.pack("!5H", 0x8180, 1, int(found), 0, 0)
    if not found:
        return header + question[12:end]
    record = b"\xc0\x0c" + struct.pack("!HHIH", A, 1, 1, 4) + ip_address(address).packed
    return header + question[12:end] + record


def main() -> None:
    """Answer for ever."""
    address, file = sys.argv[1], Path(sys.argv[2])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        print("ready", flush=True)  # noqa: T201 - waited for
        while True:
            question, source = sock.recvfrom(2048)
            if held := file.read_text().strip():
                sock.sendto(answer(question, held), source)


if __name__ == "__main__":
    main()
