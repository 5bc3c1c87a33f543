"""Inner packets to test with, and a sink that keeps what it is given."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from pyvpn.tunnel.counters import Drop


def packed(address: str) -> bytes:
    """An address as the packet path knows it."""
    return ip_address(address).packed


def packet_between(source: bytes, destination: bytes, payload: bytes = b"") -> bytes:
    """One whole UDP-ish packet of the addresses' family."""
    if len(source) == 4:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, 17, 0)
    else:
        header = struct.pack("!IHBB", 6 << 28, len(payload), 17, 64)
    return header + source + destination + payload


def packet(source: str, destination: str, payload: bytes = b"") -> bytes:
    """The same, from addresses as people write them."""
    return packet_between(packed(source), packed(destination), payload)


class KeepingSink:
    """Takes packets until it is full, and keeps them and the batches they came in."""

    refusal = Drop.QUEUE_FULL

    def __init__(self, room: int = 10**6) -> None:
        self.room = room
        self.batches: list[list[bytes]] = []

    def send_packets(self, packets: list[bytes], now: float = 0.0) -> int:
        taken = packets[: self.room]
        self.room -= len(taken)
        self.batches.append(taken)
        return len(taken)

    @property
    def packets(self) -> list[bytes]:
        return [packet for batch in self.batches for packet in batch]
