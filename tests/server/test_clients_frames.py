"""Super-packets of clients on their control connections."""

from __future__ import annotations

from pyvpn.net.control import ControlLink
from pyvpn.tunnel.counters import Drop
from pyvpn.wire.command import Command
from pyvpn.wire.framed import CAPABILITY, framed
from pyvpn.wire.messages import Register, RegisterAnswer
from pyvpn.wire.rebuild import SuperPacket
from pyvpn.wire.segments import cut
from tests.server.office import Caller, OfficeCase, own_address
from tests.tunnel.packets import KeepingSink, packed
from tests.wire.plain_segments import TCP, completed, frame, ip4, tcp

OFFICE = "192.168.77.20"


class Tun(KeepingSink):
    """Takes super-packets, too."""

    def __init__(self) -> None:
        super().__init__()
        self.supers: list[SuperPacket] = []

    def send_super_packets(self, packets: list[SuperPacket]) -> int:
        self.supers += packets
        return sum(each.segments for each in packets)


def between(source: str, destination: str, size: int = 9500) -> bytes:
    """A TCP super-packet, as a TUN hands it out."""
    packet = ip4(TCP, tcp(bytes(size)))
    packet = packet[:12] + packed(source) + packed(destination) + packet[20:]
    return frame(completed(packet), 1000)


class FramesTests(OfficeCase):
    """Announced in the registration, they ride the connection, both ways."""

    def setUp(self) -> None:
        super().setUp()
        self.tun = Tun()
        self.office.router._tun = self.tun
        self.caller = self.call()
        self.caller.log_in()
        self.caller.link.raise_limit()

    def register(self, *words: str, caller: Caller | None = None) -> RegisterAnswer:
        data = (caller or self.caller).answer(
            Command.REGISTER, Register(capabilities=words).to_bytes()
        )
        return RegisterAnswer.from_bytes(data)

    def send(self, whole: bytes) -> None:
        self.caller.link.transport.write(framed([whole], 1 << 20).data)
        self.office.settle()

    def from_tun(self, *frames: bytes) -> None:
        self.office.router.frames_from_tun(list(frames), self.office.clock.seconds())
        self.office.settle()

    def test_announced(self) -> None:
        """Who says the word is told it, also without a WireGuard key; no other word is."""
        answer = self.register("unheard-of", CAPABILITY)

        self.assertEqual((CAPABILITY,), answer.capabilities)
        self.assertTrue(self.office.clients.any_uncut)
        self.assertTrue(self.office.session().crosses_uncut)

    def test_not_announced(self) -> None:
        """Who does not say it is sent packets, and sends nothing else that means anything."""
        answer = self.register("offload")
        mine = own_address(answer)
        self.assertEqual((), answer.capabilities)
        self.assertFalse(self.office.clients.any_uncut)
        self.assertFalse(self.office.session().crosses_uncut)

        whole = between(OFFICE, mine)
        self.from_tun(whole)
        self.assertEqual(cut(whole), self.caller.packets())
        self.send(between(mine, OFFICE))
        self.assertEqual([], self.tun.supers)
        self.assertEqual({Drop.MALFORMED: 1}, self.office.session().drops.dropped)

    def test_both_ways(self) -> None:
        """A super-packet crosses as one, and counts as the packets that it stands for."""
        mine = own_address(self.register(CAPABILITY))
        session = self.office.session()
        there, back = between(mine, OFFICE), between(OFFICE, mine)
        self.send(there)
        self.from_tun(back)

        self.assertEqual([there], [b"".join(each.pieces) for each in self.tun.supers])
        self.assertEqual((10, 10), (session.packets_in, session.packets_out))
        size = sum(map(len, cut(there)))
        self.assertEqual((size, size), (session.bytes_in, session.bytes_out))
        [data] = self.caller.packets()
        self.assertEqual(framed([back], 1 << 20).data[12:], data)

    def test_judged(self) -> None:
        """Source and destination are looked at as those of any packet."""
        mine = own_address(self.register(CAPABILITY))
        for source, destination, reason in (
            ("10.73.0.99", OFFICE, Drop.SOURCE),
            (mine, "203.0.113.9", Drop.DESTINATION),
            (mine, "224.0.0.1", Drop.MULTICAST),
        ):
            self.send(between(source, destination))
            self.assertEqual(10, self.office.session().drops.dropped[reason])
        self.assertEqual([], self.tun.supers)
        self.send(between(mine, OFFICE))
        self.assertEqual(1, len(self.tun.supers))

    def test_to_who_takes_none(self) -> None:
        """Another client that does not take them gets packets, each complete."""
        self.office.router.client_to_client = True
        mine = own_address(self.register(CAPABILITY))
        other = self.call()
        theirs = own_address(other.join(device="desktop"))
        whole = between(mine, theirs)
        self.send(whole)

        self.assertEqual(cut(whole), other.packets())

    def test_limited(self) -> None:
        """Where a rate is limited they are cut, and each packet counts."""
        mine = own_address(self.register(CAPABILITY))
        session = self.office.session()
        now = self.office.clock.seconds()
        self.office.router.limits.set(session, 8_000_000, 8_000_000, now)
        self.assertFalse(session.takes_frames(now))
        self.from_tun(between(OFFICE, mine))
        self.assertEqual(cut(between(OFFICE, mine)), self.caller.packets())
        self.send(between(mine, OFFICE))
        self.assertEqual(([], 10), (self.tun.supers, len(self.tun.packets)))

    def test_queue_full(self) -> None:
        """What the connection does not take is dropped, and counted for the session."""
        mine = own_address(self.register(CAPABILITY))
        session = self.office.session()
        link = session.link
        assert isinstance(link, ControlLink)
        link._valve.pauseProducing()
        self.from_tun(between(OFFICE, mine))

        self.assertEqual({Drop.QUEUE_FULL: 10}, session.drops.dropped)
        self.assertEqual([], self.caller.packets())

    def test_registered_again(self) -> None:
        """Each registration says it anew; and a connection that is gone takes none."""
        self.register(CAPABILITY)
        self.assertEqual((), self.register().capabilities)
        self.assertFalse(self.office.session().crosses_uncut)
        self.register(CAPABILITY)
        self.assertTrue(self.office.session().crosses_uncut)
        again = self.caller.rejoin()
        self.assertFalse(self.office.session().crosses_uncut)
        self.register(CAPABILITY, caller=again)
        self.assertTrue(self.office.session().crosses_uncut)
        again.hang_up()
        self.assertFalse(self.office.session().crosses_uncut)
        self.assertFalse(self.office.clients.any_uncut)

    def test_before_registration(self) -> None:
        """Nothing passes before."""
        self.send(between("10.73.0.2", OFFICE))
        self.assertEqual(1, self.office.counters.dropped[Drop.NOT_REGISTERED])
