"""What pyvpn promises of each fault, one short story each, by the number of the promise.

The figures are the promises'.  A stock client stands beside ours wherever a promise is for both.
Not here, for a simulated host has no such thing: an interface or a route that another program
removes, a full disk, a signal.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.server.clients import Clients
from pyvpn.testing.simulator.chaos import Chaos
from pyvpn.testing.simulator.link import Link
from pyvpn.testing.simulator.mishaps import Kind, Mishap
from pyvpn.testing.simulator.trace import Event
from pyvpn.testing.simulator.udp import UDP
from pyvpn.tunnel.choice import Transport
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.session import Session
from pyvpn.wire.datagram import Path
from pyvpn.wire.messages import Code
from tests.simulator.native_lab import EVERY, Lab
from tests.simulator.test_native_stories import AT_ONCE, met

NATIVE, STOCK = 0, 1


class RestartTests(SynchronousTestCase):
    """A1 to A3: who was killed, and who said goodbye."""

    def test_a1(self) -> None:
        """A1: the server killed under load: both back 1 s after it is up, addresses kept."""
        for _ in range(5):
            lab = met(1, 1)
            addresses = [lab.address(each) for each in (NATIVE, STOCK)]
            lab.clock.call_at(lab.clock.seconds() + 3, lab.server.kill)
            lab.clock.call_at(lab.clock.seconds() + 4, lab.server.start)
            for talk in lab.talk(10):
                self.assertLess(talk.gap, 2.0 + AT_ONCE)
            self.assertEqual(addresses, [lab.address(each) for each in (NATIVE, STOCK)])
            self.assertEqual([], lab.repeated())

    def test_a1Connections(self) -> None:
        """A1: connections inside survive, and every hash is right."""
        story = [Mishap(at, Kind.SERVER_RESTART, 0, 1.0, 0.0) for at in (5.0, 20.0, 30.0)]
        verdict = Chaos(1, 0.6, story).tell()

        self.assertEqual([], verdict.problems)

    def test_a2(self) -> None:
        """A2: our client killed fifty times: 1 s, the same address, one lease, one session."""
        lab = met()
        address = lab.client.address
        for _ in range(50):
            lab.client.kill()
            lab.clock.advance(0.7)
            lab.client.start()
            self.assertLess(lab.until_heard(NATIVE, 5.0), 1.0)
            self.assertEqual(address, lab.client.address)
        self.assertEqual(1, len(lab.server.sessions))
        self.assertEqual(1, len(lab.server.store.leases()))

    def test_a3(self) -> None:
        """A3: who says goodbye is gone at once at the other end, and comes back at once."""
        lab = met()
        address = lab.client.address
        lab.client.leave()
        lab.clock.advance(0.1)
        self.assertEqual([], lab.server.sessions)
        self.assertEqual(0, lab.server.sizes()["WireGuard peers"])
        lab.client.start()
        self.assertLess(lab.until_heard(NATIVE, 5.0), 1.0)
        self.assertEqual(address, lab.client.address)


class LinkTests(SynchronousTestCase):
    """A4 to A8: lines that go down, and addresses that change."""

    def test_a4(self) -> None:
        """A4: the server's line down for 30 s, ten times: back within 1 s of its return."""
        lab = met(1, 1)
        session = lab.server.session("native0")
        for _ in range(10):
            for each in (NATIVE, STOCK):
                lab.both(each, cut=True)
            lab.talk(30)
            lab.network.heal()
            for each in (NATIVE, STOCK):
                self.assertLess(lab.until_heard(each, 10.0), 1.0 if each == NATIVE else 6.0)
            lab.clock.advance(10)
        self.assertIs(session, lab.server.session("native0"))

    def test_a5(self) -> None:
        """A5: our line down for 200 s, and the kernel tells of its return: 1 s; stock: 6 s."""
        lab = met(1, 1)
        address = lab.client.address
        for each in (NATIVE, STOCK):
            lab.both(each, cut=True)
        lab.talk(200)
        lab.network.heal()
        lab.client.network_changed()
        self.assertLess(lab.until_heard(NATIVE, 10.0), 1.0)
        self.assertLess(lab.until_heard(STOCK, 10.0), 6.0)
        self.assertEqual(address, lab.client.address)

    def test_a6(self) -> None:
        """A6: another address twenty times: less than 1 s each, and the endpoint is right."""
        lab = met(1, 1)
        for number in range(20):
            version = (4, 4, 6, 4)[number % 4]
            lab.client.host.move(lab.new_address(version))
            lab.client.network_changed()
            self.assertLess(lab.talk(5, among=[NATIVE])[0].gap, 1.0)
            self.assertEqual(lab.client.host.addresses[0], self.endpoint(lab).host)
            lab.stocks[0].host.move(lab.new_address(4))
            self.assertLess(lab.talk(5, among=[STOCK])[0].gap, 1.0)
        self.assertEqual(1, len(lab.server.sessions))

    def test_a6_by_tls(self) -> None:
        """A6 by TLS: as quick the twentieth time, though none had the time to prove itself."""
        lab = Lab(1, transport=Transport.TCP)
        lab.until_heard()
        lab.talk(5)
        for _ in range(20):
            lab.client.host.move(lab.new_address(4))
            lab.client.network_changed()
            self.assertLess(lab.until_heard(), 1.0)
            lab.clock.advance(1.0)

    def test_a6_while_it_connects(self) -> None:
        """What is being tried from an address that is gone is not waited for."""
        lab = Lab(1, transport=Transport.TCP)
        lab.until_heard()
        lab.both(0, cut=True)
        lab.client.host.move(lab.new_address(4))
        lab.client.network_changed()
        lab.clock.advance(4.0)
        lab.network.heal()
        lab.client.host.move(lab.new_address(4))
        lab.client.network_changed()
        self.assertLess(lab.until_heard(), 1.0)

    def test_a6_again_and_again(self) -> None:
        """But a network that changes every second leaves a slow line the time to connect."""
        lab = Lab(1, transport=Transport.TCP)
        lab.until_heard()
        lab.both(0, delay=0.7)
        lab.client.host.move(lab.new_address(4))
        heard = []
        for _ in range(12):
            lab.client.network_changed()
            heard.append(lab.until_heard(seconds=1.0))
        self.assertLess(heard[-1], 3.0)

    def endpoint(self, lab: Lab) -> Path:
        session = lab.server.session("native0")
        assert session is not None
        assert isinstance(session.peer, Peer)
        assert session.peer.endpoint is not None
        return session.peer.endpoint

    def test_a7(self) -> None:
        """A7: the server at another address, which its name says 5 s later: back within 30 s."""
        for transport in Transport.AUTO, Transport.TCP:
            lab = Lab(1, transport=transport, natted=True)
            lab.until_heard()
            address = lab.client.address
            lab.server.move(bytes((192, 0, 2, 99)))
            lab.talk(5)
            lab.client.places[:] = [lab.client.places[0]._replace(host=bytes((192, 0, 2, 99)))]
            self.assertLess(lab.until_heard(NATIVE, 60.0), 30.0)
            self.assertEqual(address, lab.client.address)

    def test_a8(self) -> None:
        """A8: a NAT that forgets every 5 s loses no session, and a packet or two each time."""
        lab = met(1, 1, natted=True)
        session = lab.server.session("native0")
        for _ in range(12):
            for nat in lab.nats:
                nat.rebind()
            for talk in lab.talk(3):
                self.assertLess(talk.gap, 1.0)
        self.assertIs(session, lab.server.session("native0"))

    def test_a8Idle(self) -> None:
        """A8: behind a NAT that forgets in 30 s, an idle client is reached at the first try."""
        lab = met(1, 1, natted=True)
        for nat in lab.nats:
            nat.udp_seconds = 30.0
        lab.clock.advance(120)
        [native, stock] = lab.talk(0.1)
        self.assertEqual((0, 0), (native.lost, stock.lost))


class LineTests(SynchronousTestCase):
    """A9 to A12: what becomes of single packets."""

    def test_a9(self) -> None:
        """A9: a hundred handshakes where a fifth is lost each way: median 6 s, all within 90 s."""
        lab = Lab(0, 100)
        for each in range(100):
            lab.both(each, loss=0.2)
        began, done = lab.clock.seconds(), {}
        while len(done) < 100 and lab.clock.seconds() < began + 90:
            for each, client in enumerate(lab.stocks):
                if each not in done and client.peer(lab.server.static.public).current:
                    done[each] = lab.clock.seconds() - began
                elif each not in done:
                    lab.say(each)
            lab.clock.advance(0.5)
        times = sorted(done.values())
        self.assertEqual(100, len(times))
        self.assertLess(times[50], 6.0)
        self.assertLess(times[98], 30.0)

    def test_a10(self) -> None:
        """A10: in blocks of a thousand in any order, none is dropped as a replay."""
        lab = met(1, 1)
        for each, up in ((NATIVE, lab.clients[NATIVE]), (STOCK, lab.clients[STOCK])):
            lab.up(each, reorder=1.0, reorder_seconds=1.0)
            before = len(lab.server.tun.packets)
            for _ in range(3):
                for _ in range(1000):
                    lab.say(each)
                lab.clock.advance(2.0)
            self.assertEqual(3000, len(lab.server.tun.packets) - before, up)
        self.assertEqual(0, lab.server.counters.dropped[Drop.REPLAYED])

    def test_a11(self) -> None:
        """A11: with three in ten repeated each is delivered once, and the repeats are counted."""
        lab = met(1, 1)
        for each in (NATIVE, STOCK):
            lab.up(each, duplicate=0.3, no_tcp=True)
        before = lab.network.trace.counts[Event.DUPLICATED]
        for talk in lab.talk(60):
            self.assertEqual(0, talk.lost)
        repeats = lab.network.trace.counts[Event.DUPLICATED] - before
        self.assertEqual([], lab.repeated())
        self.assertGreater(repeats, 200)
        counted = lab.server.counters.dropped
        self.assertApproximates(repeats, counted[Drop.REPLAYED], 5)  # but for handshakes

    def test_a12(self) -> None:
        """A12: each bit of a packet flipped: none is taken, answered, or moves anything."""
        lab = met(1, 1)
        for each in (NATIVE, STOCK):
            client = lab.clients[each]
            link = lab.network.link(client.host, lab.server.host)
            sent: list[bytes] = []
            self.patch(Link, "carry", _keeping(sent, link))
            lab.say(each)
            lab.clock.advance(1)
            [datagram] = [each for each in sent if each[:1] == b"\x04" and len(each) > 48][:1]
            port = lab.server.host.udp_port(51820)
            source = Path(lab.new_address(), 4000)
            before = len(lab.server.tun.packets), lab.network.trace.counts[Event.SENT]
            endpoint = [peer.endpoint for peer in _peers(lab)]
            for bit in range(8 * len(datagram)):
                flipped = bytearray(datagram)
                flipped[bit // 8] ^= 1 << bit % 8
                port.receiver([([bytes(flipped)], source, 0)])
            after = len(lab.server.tun.packets), lab.network.trace.counts[Event.SENT]
            self.assertEqual(before, after)
            self.assertEqual(endpoint, [peer.endpoint for peer in _peers(lab)])


class CarrierTests(SynchronousTestCase):
    """A15, A16: half-open connections; UDP that is blocked."""

    def test_a15(self) -> None:
        """A15: a client that vanished: its connection is closed within 45 s, its session kept."""
        lab = Lab(transport=Transport.TCP)
        lab.until_heard()
        lab.both(cut=True)
        began = lab.clock.seconds()
        gone = lab.clock.run_while(lambda: lab.server.sizes()["connections"] > 0, 60.0)
        self.assertTrue(gone)
        self.assertLess(lab.clock.seconds() - began, 45.0)
        self.assertEqual(1, len(lab.server.sessions))

    def test_a16(self) -> None:
        """A16: UDP blocked for 60 s: by TCP in 10 s, by UDP again in 60 s, hashes right."""
        lab = met(1, 1)
        lab.both(NATIVE, no_udp=True)
        session = lab.server.session("native0")
        self.assertLess(lab.until_carrier("tcp", 20.0), 10.0)
        self.assertLess(lab.gap(50), AT_ONCE)
        lab.network.heal()
        self.assertLess(lab.until_carrier("udp", 90.0), 60.0)
        self.assertIs(session, lab.server.session("native0"))
        story = [Mishap(5.0, Kind.NO_UDP, 0, 60.0, 0.0)]
        self.assertEqual([], Chaos(2, 0.6, story).tell().problems)

    def test_flaps(self) -> None:
        """Fifty flaps between the carriers, at random: no session lost, no wrong hash."""
        random = Random(16)
        kinds = (Kind.NO_UDP, Kind.NO_UDP_UP, Kind.NO_UDP_DOWN)
        story, at = [], 1.0
        for _ in range(50):
            seconds = random.uniform(9.0, 16.0)
            story.append(Mishap(at, random.choice(kinds), 0, seconds, 0.0))
            at += seconds + random.uniform(5.0, 40.0)
        chaos = Chaos(3, at / 60, story, most_bytes=10_000)
        sessions: set[Session] = set()

        def look() -> None:
            sessions.update(chaos.server.sessions)
            chaos.clock.callLater(1.0, look)

        look()
        verdict = chaos.tell()

        self.assertEqual([], verdict.problems)
        self.assertEqual(1, len(sessions))
        self.assertGreaterEqual(chaos.native.data.choice.moves, 50)


class TimeTests(SynchronousTestCase):
    """A22, A24: clocks that are set, and machines that sleep."""

    def test_a22(self) -> None:
        """A22: the wall clock set by an hour mid-way and before a rekey: nothing lost, rekeyed."""
        for step in -3600.0, 3600.0:
            lab = met(1, 1)
            before = lab.network.trace.counts[Event.SENT]
            lab.clock.advance(117)
            for each in (lab.server, *lab.clients):
                each.wall_error += step
            for talk in lab.talk(20):
                self.assertEqual(0, talk.lost)
            ages = [
                lab.clock.seconds() - peer.current.created for peer in _peers(lab) if peer.current
            ]
            self.assertEqual(2, len(ages))
            self.assertLess(max(ages), 25.0)
            self.assertGreater(lab.network.trace.counts[Event.SENT], before)

    def test_a24(self) -> None:
        """A24: asleep for 10 s, 200 s, an hour: traffic within 1 s, one initiation in 5 s."""
        for seconds in 10.0, 200.0, 3600.0:
            lab = met()
            lab.clock.advance(20)
            address, session = lab.client.address, lab.server.session("native0")
            lab.client.host.sleep()
            lab.clock.advance(seconds)
            lab.client.host.wake()
            self.begun = 0
            self.patch(Link, "carry", _counting_initiations(self, lab))
            lab.client.network_changed()  # as soon as the clocks are looked at
            self.assertLess(lab.until_heard(NATIVE, 30.0), 1.0, seconds)
            lab.clock.advance(5)
            is_new = lab.server.session("native0") is not session
            self.assertEqual(seconds > 60, is_new)
            self.assertLessEqual(self.begun, 1)
            self.assertEqual(address, lab.client.address)

    def test_a24_stopped(self) -> None:
        """A24: a stock app that stood still, while there was always something for it: 1 s.

        It has nothing to send itself, and answers what we have given up long ago.
        """
        for seconds in 10.0, 200.0, 3600.0:
            lab = met(1, 1)
            stock = lab.stocks[0]
            stock.peer(lab.server.static.public).set_keepalive(0, lab.clock.seconds())
            lab.clock.advance(20)
            stock.host.stop_process()
            lab.talk(seconds - 2.0, among=[STOCK])  # and waits for 2 s
            lab.clock.advance(2.5)  # so the next try is not due
            self.patch(Link, "carry", _counting_initiations(self, lab))
            self.begun = 0
            stock.host.continue_process()
            lab.clock.advance(0.05)  # first it looks at what has waited
            self.assertLess(lab.until_heard(STOCK, 30.0), 1.0, seconds)
            lab.clock.advance(3)
            self.assertLessEqual(self.begun, 1)
            self.patch(Link, "carry", _CARRY)

    begun = 0


class AttackTests(SynchronousTestCase):
    """D5, D22: sessions that somebody wants to take, or that end."""

    def test_d5(self) -> None:
        """D5: neither a forged packet nor a replayed one moves an endpoint."""
        lab = met(1, 1)
        for each in (NATIVE, STOCK):
            client = lab.clients[each]
            link = lab.network.link(client.host, lab.server.host)
            sent: list[bytes] = []
            self.patch(Link, "carry", _keeping(sent, link))
            lab.say(each)
            lab.clock.advance(1)
            [datagram] = [one for one in sent if one[:1] == b"\x04" and len(one) > 48][:1]
            receive = lab.server.host.udp_port(51820).receiver
            source = Path(lab.new_address(), 4000)
            before = [peer.endpoint for peer in _peers(lab)]
            replays = lab.server.counters.dropped[Drop.REPLAYED]
            receive([([datagram], source, 0)])
            self.assertEqual(replays + 1, lab.server.counters.dropped[Drop.REPLAYED])
            receive([([datagram[:-1] + bytes((datagram[-1] ^ 1,))], source, 0)])
            receive([([datagram[:8] + bytes(8) + bytes(len(datagram) - 16)], source, 0)])
            self.assertEqual(before, [peer.endpoint for peer in _peers(lab)])
            self.assertLess(lab.gap(2), AT_ONCE)

    def test_d22(self) -> None:
        """D22: who is sent away has no packet through after 1 s, whatever the client does."""
        lab = met(2)
        kicked, other = lab.natives
        clients = _clients_of(lab)
        session = lab.server.session(kicked.name)
        assert session is not None
        peer = session.peer
        clients.dismiss(session, Code.KICKED, "an administrator ended this")
        ends = [lab.clock.seconds()]
        counts = []
        for _ in range(50):
            for client in (kicked, other):
                lab.say(lab.natives.index(client))
            assert isinstance(peer, Peer)
            said = [each for each in lab.server.tun.packets if each[9] == UDP]
            counts.append(sum(each[12:16] == kicked.address for each in said))
            lab.clock.advance(EVERY)
        self.assertEqual(counts[10], counts[-1])
        self.assertEqual(0, peer.keypairs)
        self.assertIsNone(lab.server.session(kicked.name))
        self.assertIn("an administrator ended this", kicked.setbacks[-1])
        self.assertEqual("udp", other.carrier)
        lab.clock.advance(80)
        self.assertTrue(kicked.is_registered)
        self.assertGreater(lab.clock.seconds() - ends[0], 60)

    def test_d23(self) -> None:
        """D23: no two devices share an address, however they come and go."""
        lab = met(4)
        for number in range(12):
            client = lab.natives[number % 4]
            client.leave() if number % 2 else client.kill()
            lab.clock.advance(0.3)
            client.start()
            lab.clock.advance(2)
            addresses = [each.addresses for each in lab.server.sessions]
            self.assertEqual(len(addresses), len(set(addresses)))


def _peers(lab: Lab) -> list[Peer]:
    process = lab.server._process
    assert process is not None
    return list(process.wireguard.wireguard.peers.values())


def _clients_of(lab: Lab) -> Clients:
    process = lab.server._process
    assert process is not None
    return process.clients


def _keeping(sent: list[bytes], link: Link) -> Callable[..., object]:
    """Stands for ``Link.carry``: keeps what one link is given."""

    def keep(each: Link, packet: object, now: float) -> object:
        if each is link:
            sent.append(packet.payload)  # type: ignore[attr-defined]
        return _CARRY(each, packet, now)  # type: ignore[arg-type]

    return keep


def _counting_initiations(test: TimeTests, lab: Lab) -> Callable[..., object]:
    def count(each: Link, packet: object, now: float) -> object:
        if packet.protocol == 17 and packet.payload[:1] == b"\x01":  # type: ignore[attr-defined]
            test.begun += 1
        return _CARRY(each, packet, now)  # type: ignore[arg-type]

    return count


_CARRY = Link.carry
