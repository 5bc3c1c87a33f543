"""Datagrams that come back to be sealed again, because the routes lead a peer's own into it.

Each time round a packet grows, and is soon cut into two: one lost packet would take the whole
line.  The kernel's WireGuard compares interfaces; we recognise what we have sealed ourselves.  A
peer that is reached through *another* peer of the same interface is no loop.
"""

from __future__ import annotations

from enum import StrEnum

from pyvpn.tunnel.peer import Peer
from pyvpn.wire.datagram import DATA

_DATA_TYPE = DATA.to_bytes(4, "little")
_PAYLOAD4 = 28  # where that of a UDP datagram begins; our own have no options
_PAYLOAD6 = 48


class LoopDrop(StrEnum):
    """Why a packet was not sent."""

    LOOP = "loop-through-itself"
    """Routes or allowed IPs lead the datagrams for a peer into the tunnel to that very peer."""


def may_be_sealed(packet: bytes) -> bool:
    """Whether an IP packet could hold a data message; cheap, for it is asked of every packet."""
    # Twenty nanoseconds less than with names for the numbers, which are the two above.
    return packet[28:32] == _DATA_TYPE or packet[48:52] == _DATA_TYPE


def is_sealed_for(packet: bytes, peer: Peer) -> bool:
    """Whether *packet* holds what we have sealed for *peer*, with the key that is in use."""
    keypair = peer.current
    if keypair is None:
        return False
    # Whoever else seals for that peer has been given another index of 32 bits.
    start = _PAYLOAD4 if packet[0] >> 4 == 4 else _PAYLOAD6
    return packet[start : start + 8] == _DATA_TYPE + keypair.remote_index.to_bytes(4, "little")
