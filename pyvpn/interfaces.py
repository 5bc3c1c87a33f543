"""The seams between the deaf rooms and the world."""

from __future__ import annotations

from collections.abc import Sequence

from zope.interface import Attribute, Interface

from pyvpn.wire.datagram import Path
from pyvpn.wire.rebuild import SuperPacket


class IPacketSink(Interface):
    """Takes inner IP packets for this host: the TUN.

    The unit is a batch.  A sink that cannot take all of it drops the rest at once: a packet is
    never queued without bound and never makes anybody wait.
    """

    def send_packets(packets: list[bytes]) -> int:
        """Take *packets* in order; return how many were accepted.  Never raises, never blocks."""

    def send_super_packets(packets: list[SuperPacket]) -> int:
        """Do the same with super-packets; return how many of what they stand for were accepted."""


class ICarrier(Interface):
    """Takes inner IP packets for a peer: a control link, or a WireGuard peer.

    As with :class:`IPacketSink` the unit is a batch, and what does not fit is dropped at once; the
    router counts that for the session.
    """

    refusal = Attribute("Why it takes no more: the word that the rest is counted under.")

    def send_packets(packets: list[bytes], now: float) -> int:
        """Take *packets* in order at the time *now* (CLOCK_BOOTTIME seconds).

        Returns how many were accepted, from the front.  Never raises, never blocks.
        """


class IDatagramSink(Interface):
    """Takes WireGuard messages for the network: the UDP port."""

    def send_datagrams(datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        """Send *datagrams* along *path*, with *tos* (DSCP and ECN) in their IP headers.

        From the local address that *path* names, or one the kernel chooses.  Returns how many the
        kernel took; the others are dropped and counted.  Never raises, never blocks.
        """

    def send_whole(datagram: bytes, path: Path) -> bool:
        """Send *datagram* so that nobody on the way may fragment it, however large it is.

        Returns whether the kernel took it; it does not if its own interface is narrower.
        """

    def send_replies(replies: list[tuple[bytes, Path]]) -> None:
        """Send each datagram along its own path, and remember nothing of it.

        For those who may never be heard again: what they cost should be as little as it can.
        """
