"""The seams between the deaf rooms and the world."""

from __future__ import annotations

from zope.interface import Interface


class IPacketSink(Interface):
    """Takes inner IP packets for this host: the TUN.

    The unit is a batch.  A sink that cannot take all of it drops the rest at once: a packet is
    never queued without bound and never makes anybody wait.
    """

    def send_packets(packets: list[bytes]) -> int:
        """Take *packets* in order; return how many were accepted.  Never raises, never blocks."""


class ICarrier(Interface):
    """Takes inner IP packets for a peer: a control link, or a WireGuard peer.

    As with :class:`IPacketSink` the unit is a batch, and what does not fit is dropped at once; the
    router counts that for the session.
    """

    def send_packets(packets: list[bytes], now: float) -> int:
        """Take *packets* in order at the time *now* (CLOCK_BOOTTIME seconds).

        Returns how many were accepted, from the front.  Never raises, never blocks.
        """
