"""The seams between the deaf rooms and the world."""

from __future__ import annotations

from zope.interface import Interface


class IPacketSink(Interface):
    """Takes inner IP packets: the TUN at one end, a session's carrier at the other.

    The unit is a batch.  A sink that cannot take all of it drops the rest at once: a packet is
    never queued without bound and never makes anybody wait.  The TUN counts what it dropped
    by cause; what a carrier did not take is counted by the router, for the session.
    """

    def send_packets(packets: list[bytes]) -> int:
        """Take *packets* in order; return how many were accepted.  Never raises, never blocks."""
