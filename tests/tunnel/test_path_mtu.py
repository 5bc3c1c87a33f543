"""Paths that swallow large datagrams: found, told to the server, and kept to by both ends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.choice import Transport
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.tunnel.path_mtu import LEAST, PathMtu, usual_sizes
from pyvpn.tunnel.router import Router
from pyvpn.tunnel.session import Session
from tests.tunnel.packets import KeepingSink, packed, packet
from tests.tunnel.stories import CLIENT, OFFICE, Story
from tests.tunnel.wires import End, Sent

OUTER = 28
"""Bytes of IPv4 and UDP, which the wires of these tests leave out."""


def narrow(story: Story, most: int, *towards: str) -> None:
    """Swallow datagrams that would be larger than *most* bytes with their headers."""

    def lose(end: End, sent: Sent) -> bool:
        way = "up" if end is story.client else "down"
        return way in towards and len(sent.datagram) + OUTER > most

    story.net.lose = lose


def met(transport: Transport = Transport.AUTO) -> Story:
    story = Story(transport)
    story.register()
    story.run(5)
    return story


def seconds_until(story: Story, size: int, most: float) -> float:
    """Talk until packets are at most *size* bytes at both ends; return how long that took."""
    begun = story.net.now
    while story.net.now < begun + most:
        story.talk(0.5)
        if {story.session.path_mtu, story.client_session.path_mtu} == {size}:
            return story.net.now - begun
    raise AssertionError(f"{story.session.path_mtu}, {story.client_session.path_mtu} after {most}")


class SizesTests(SynchronousTestCase):
    """What is asked."""

    def test_usual(self) -> None:
        """Ethernet first and as it is, then what fits PPPoE, 1280 and the rest, whole paddings."""
        sizes = usual_sizes(1420, 4)
        self.assertEqual(1420, sizes[0])
        self.assertIn((1280 - 60) // 16 * 16, sizes)
        self.assertEqual(LEAST, sizes[-1])
        self.assertIn(1200, usual_sizes(1420, 6))
        self.assertIn((1500 - 60) // 16 * 16, usual_sizes(8920, 4))

    @given(st.integers(512, 65_535), st.sampled_from([4, 6]))
    def test_order(self, most: int, version: int) -> None:
        """Largest first, each once, from the tunnel's MTU down to the least."""
        sizes = usual_sizes(most, version)
        self.assertEqual(sorted(set(sizes), reverse=True), list(sizes))
        self.assertEqual(most, sizes[0])
        self.assertGreaterEqual(sizes[-1], LEAST)

    def test_loss(self) -> None:
        """One lost question changes nothing; what came of two volleys counts, not of one."""
        path, sizes = PathMtu(), (1420, 1216, 512)
        self.assertEqual([1420], path.question(sizes, 0.0))
        self.assertTrue(path.answered(1420))
        self.assertEqual([1420], path.question(sizes, 1.0))
        self.assertEqual([1420, 1420], path.question(sizes, 2.0))
        self.assertEqual([1420, 1420, 1216, 512], path.question(sizes, 3.0))
        self.assertFalse(path.answered(512))
        self.assertFalse(path.is_narrower)
        self.assertEqual([1420, 1420, 1216, 512], path.question(sizes, 4.0))
        self.assertFalse(path.answered(1216))
        self.assertTrue(path.is_narrower)
        self.assertTrue(path.narrow())
        self.assertEqual(1216, path.size)


class StoryTests(SynchronousTestCase):
    """A client and a server in memory."""

    def test_from_the_beginning(self) -> None:
        """A path that is narrow when the tunnel begins is used, and both ends keep to it."""
        for most, size in (1492, 1420), (1480, 1420), (1479, 1408), (1280, 1216), (576, 512):
            for ways in ("up",), ("down",), ("up", "down"):
                story = Story()
                narrow(story, most, *ways)
                story.register()
                self.assertLess(story.talk(10), 0.25)
                self.assertTrue(story.choice.by_udp, (most, ways))
                wanted = size if size < 1420 else 0
                self.assertEqual(wanted, story.client_session.path_mtu, (most, ways))
                self.assertEqual(wanted, story.session.path_mtu, (most, ways))
                story.run(2)
                self.assertEqual("it answers", story.choice.why)

    def test_in_the_middle(self) -> None:
        """A path that becomes narrow while small packets pass is found within 10 s, either way."""
        for ways in ("up",), ("down",), ("up", "down"):
            story = met()
            self.assertEqual(0, story.session.path_mtu)
            narrow(story, 1280, *ways)
            self.assertLess(seconds_until(story, 1216, 30), 10.0, ways)
            self.assertEqual(1, story.choice.moves)

    def test_only_large_ones_pass(self) -> None:
        """So it is if nothing but large packets is sent, from whichever end."""
        for up in True, False:
            story = met()
            narrow(story, 1280, "up", "down")
            end = story.net.now + 10
            while story.session.path_mtu != 1216:
                self.assertLess(story.net.now, end)
                (story.up_packet if up else story.down_packet)(bytes(1380))
                story.run(0.5)
            self.assertEqual(1216, story.client_session.path_mtu)

    def test_wider_again(self) -> None:
        """A path that is wide again is used as such after a minute, and at once when we move."""
        for moves in False, True:
            story = Story()
            narrow(story, 1280, "up", "down")
            story.register()
            story.talk(20)
            self.assertEqual(1216, story.session.path_mtu)
            story.unblock()
            if moves:
                story.choice.network_changed(story.net.now)
            self.assertLess(seconds_until(story, 0, 70), 2.0 if moves else 64.0)

    def test_narrower_still(self) -> None:
        """From one narrow path to a narrower one."""
        story = Story()
        narrow(story, 1400, "up")
        story.register()
        story.talk(10)
        self.assertEqual(1328, story.session.path_mtu)
        narrow(story, 1280, "down")
        self.assertLess(seconds_until(story, 1216, 30), 10.0)

    def test_loss_is_not_narrowness(self) -> None:
        """One datagram in five lost at random makes no path narrow in five minutes of ten."""
        from random import Random

        random, story = Random(7), met()
        story.net.lose = lambda end, sent: random.random() < 0.1
        sizes = set()
        for _ in range(60):
            story.talk(5)
            sizes.add(story.session.path_mtu)
        self.assertEqual({0}, sizes)

    def test_udp_only(self) -> None:
        """With transport = udp what is narrower than all we know still carries small packets."""
        story = Story(Transport.UDP)
        narrow(story, 500, "up", "down")
        story.register()
        story.talk(20)
        self.assertTrue(story.choice.by_udp)
        self.assertTrue(story.up_packet(b"small"))
        self.assertEqual((LEAST, LEAST), (story.session.path_mtu, story.client_session.path_mtu))
        narrow(story, 1280, "up", "down")
        self.assertLess(seconds_until(story, 1216, 30), 10.0)

    def test_lost_word(self) -> None:
        """The server keeps to it also when the word by the control connection is lost."""
        story = met()
        story.choice._tell = lambda epoch, way, mtu: None
        narrow(story, 1280, "up", "down")
        self.assertLess(seconds_until(story, 1216, 30), 10.0)

    def test_serverGone(self) -> None:
        """While nothing at all comes back nobody asks how large it may be."""
        story = met()
        story.talk(2)
        story.lose_link()
        story.block()
        before = sum(len(each.datagram) for each in story.client.sent)
        story.run(60)
        first = sum(len(each.datagram) for each in story.client.sent) - before
        self.assertLess(first, 150_000)
        story.run(600)
        after = sum(len(each.datagram) for each in story.client.sent) - before - first
        self.assertLess(after, 100_000 + 148 * 600 / 5)

    def test_idle(self) -> None:
        """Who says nothing is asked nothing."""
        story = met()
        story.talk(5)
        story.run(40)
        before = len(story.client.sent)
        story.run(100)
        self.assertEqual(before, len(story.client.sent))


class CuttingTests(SynchronousTestCase):
    """What the ends do with packets that are larger."""

    def setUp(self) -> None:
        self.story = Story()
        narrow(self.story, 1280, "up", "down")
        self.story.register()
        self.story.talk(10)
        self.story.client_tun.batches.clear()
        self.story.server_tun.batches.clear()

    def test_cut(self) -> None:
        """IPv4 that may be is cut, and arrives in pieces that fit; nothing is lost."""
        story = self.story
        story.up_packet(bytes(1380))
        self.assertEqual([1212, 208], [len(each) for each in story.server_tun.packets])
        story.down_packet(bytes(1380))
        self.assertEqual([1212, 208], [len(each) for each in story.client_tun.packets])
        self.assertEqual({}, dict(story.client.counters.dropped))

    def test_too_big(self) -> None:
        """Who forbids that is told how large packets may be, at either end; others go on."""
        story = self.story
        for up in True, False:
            source, destination = (CLIENT, OFFICE) if up else (OFFICE, CLIENT)
            router = story.client_router if up else story.server_router
            here = story.client_tun if up else story.server_tun
            there = story.server_tun if up else story.client_tun
            here.batches.clear()
            there.batches.clear()
            large = bytearray(packet(source, destination, bytes(1300)))
            large[6] = 0x40
            small = packet(source, destination, b"small")
            router.packets_from_tun([bytes(large), small], story.net.now)
            story.net.settle()
            self.assertEqual([small], there.packets)
            (answer,) = (IP(each) for each in here.packets)
            self.assertEqual((3, 4, 1216), tuple(answer[ICMP].fields[k] for k in _FRAG_NEEDED))
            self.assertEqual((destination, source), (answer.src, answer.dst))
            self.assertEqual(1, router.counters.dropped[Drop.TOO_BIG])

    def test_by_tcp_not(self) -> None:
        """What goes by the control connection is as large as it likes."""
        story = self.story
        story.block()
        story.talk(15)
        self.assertFalse(story.choice.by_udp)
        self.assertTrue(story.up_packet(bytes(1380)))
        self.assertTrue(story.down_packet(bytes(1380)))


_FRAG_NEEDED = ("type", "code", "nexthopmtu")


class Peer(KeepingSink):
    """Stands for the WireGuard peer of a session."""

    heard = 0.0


class Version6Tests(SynchronousTestCase):
    """IPv6, where nobody can be asked for less than 1280 bytes."""

    def setUp(self) -> None:
        self.tun, self.peer, self.link = KeepingSink(), Peer(), KeepingSink()
        self.router = Router(self.tun, Counters())
        self.session = Session(1, 1, "anna", (packed("fd73::2"),), (), 0.0)
        self.router.add(self.session)
        self.session.join(self.link, 0.0)
        self.session.tie(self.peer)
        self.assertTrue(self.session.choose(1, True, 1216))

    def send(self, length: int) -> bytes:
        made = packet("fd00::1", "fd73::2", bytes(length - 40))
        self.router.packets_from_tun([made], 0.0)
        return made

    def test_too_big(self) -> None:
        """More than that is answered, with 1280 where the path is narrower."""
        self.send(1281)
        (answer,) = self.tun.packets
        self.assertEqual(1280, IPv6(answer)[ICMPv6PacketTooBig].mtu)
        self.session.choose(2, True, 1328)
        self.send(1329)
        self.assertEqual(1328, IPv6(self.tun.packets[-1])[ICMPv6PacketTooBig].mtu)
        self.assertEqual([], self.peer.packets)

    def test_least(self) -> None:
        """Up to that they go by the control connection; without one, as they are."""
        self.assertEqual([self.send(1280)], self.link.packets)
        self.assertEqual([self.send(1216)], self.peer.packets)
        self.session.detach(self.link)
        self.assertEqual(self.send(1280), self.peer.packets[-1])
        self.assertEqual([], self.tun.packets)

    def test_least_counted(self) -> None:
        """What goes that way is counted as sent, or as dropped, like everything."""
        self.send(1280)
        self.assertEqual((1, 1280), (self.session.packets_out, self.session.bytes_out))
        self.link.room = 0
        self.send(1280)
        self.assertEqual(1, self.session.packets_out)
        self.assertEqual(1, self.session.drops.dropped[Drop.QUEUE_FULL])

    def test_between_sessions(self) -> None:
        """Who sends from another session is answered there, and the TUN hears nothing."""
        other = Session(2, 2, "bert", (packed("fd73::3"),), (), 0.0)
        carrier = KeepingSink()
        self.router.add(other)
        self.router.client_to_client = True
        other.join(carrier, 0.0)
        large = packet("fd73::3", "fd73::2", bytes(1300))
        self.router.packets_from_session(other, [large], 0.0)
        (answer,) = carrier.packets
        self.assertEqual(("fd73::2", "fd73::3"), (IPv6(answer).src, IPv6(answer).dst))
        self.assertEqual([], self.tun.packets)

    def test_between_sessions_late(self) -> None:
        """So is who sent what had to wait for a limit first; who is behind the TUN, there."""
        other = Session(2, 2, "bert", (packed("fd73::3"),), (), 0.0)
        carrier = KeepingSink()
        self.router.add(other)
        self.router.client_to_client = True
        other.join(carrier, 0.0)
        self.router.limits.set(self.session, None, 1_000_000, 0.0)
        self.router.packets_from_tun([packet("fd00::1", "fd73::2", bytes(1000))] * 8, 0.0)
        self.assertEqual(7, len(self.peer.packets))  # and from now on they wait
        large = packet("fd73::3", "fd73::2", bytes(1300))
        self.router.packets_from_session(other, [large] * 2, 0.0)
        self.router.packets_from_tun([packet("fd00::1", "fd73::2", bytes(1300))], 0.0)
        self.assertEqual([], self.tun.packets + carrier.packets)
        now = 0.0
        while pause := self.router.limits.release(now):
            now += pause
        self.assertEqual(["fd73::3"] * 2, [IPv6(each).dst for each in carrier.packets])
        self.assertEqual(["fd00::1"], [IPv6(each).dst for each in self.tun.packets])
