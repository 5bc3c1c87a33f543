"""Ends that misbehave: messages in the tunnel that are wrong, clones, wrong clocks, liars."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.x25519 import key_to_base64
from pyvpn.server.natives import Natives
from pyvpn.testing.simulator.ends import WireGuardEnd
from pyvpn.testing.simulator.native_client import NativeClient
from pyvpn.tunnel.counters import Drop
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.session import Session
from pyvpn.wire.messages import Register, RegisterAnswer
from pyvpn.wire.native import (
    MOST_EPOCH,
    Carrier,
    CarrierSet,
    Echo,
    EchoReply,
    Token,
    TokenTaken,
    Way,
)
from tests.simulator.native_lab import EVERY, Lab
from tests.simulator.test_native_stories import AT_ONCE, met

DAY = 86_400.0
WELCOME = Natives.welcome

WRONG = {
    "an answer to no echo": EchoReply(1 << 60, 12).to_bytes(),
    "another token taken": TokenTaken(bytes(16)).to_bytes(),
    "an old epoch": CarrierSet(0, Way.UDP).to_bytes(),
    "an epoch to come": CarrierSet(MOST_EPOCH, Way.UDP).to_bytes(),
    "the other's carrier": Carrier(7, Way.TCP).to_bytes(),
    "the other's token": Token(bytes(16)).to_bytes(),
    "no such kind": b"\x0e\0\0\x04",
    "kind 0": bytes(4),
    "a byte that is not 0": b"\x01\x01\0\x0c" + bytes(8),
    "too long": b"\x01\0\xff\xff" + bytes(8),
    "too short": b"\x01\0\0\x04",
    "no such way": Carrier(7, Way.UDP).to_bytes()[:-1] + b"\x03",
    "an epoch above all": b"\x04\0\0\x0d" + b"\xff" * 8 + b"\x02",
    "a shorter token": b"\x06\0\0\x14" + bytes(15),
}
"""What the server's end of a tunnel may send to a client, and should not."""

WRONG_TO_SERVER = WRONG | {
    "the other's carrier": CarrierSet(7, Way.TCP).to_bytes(),
    "the other's token": TokenTaken(bytes(16)).to_bytes(),
    "an old epoch": Carrier(0, Way.TCP).to_bytes(),
    "an epoch to come": b"\x03\0\0\x0d" + b"\xff" * 8 + b"\x01",
    "a token of nobody": Token(bytes(16)).to_bytes(),
}


def dropped(end: Any) -> int:
    """How many messages or packets an end has found to mean nothing."""
    return int(end.counters.dropped[Drop.MALFORMED] + end.counters.dropped[Drop.UNASKED])


class MessageTests(SynchronousTestCase):
    """Each message that is wrong, sealed as a right one is."""

    def check(self, lab: Lab, message: bytes, to_server: bool) -> None:
        session = lab.server.session("native0")
        assert session is not None
        sender, receiver = lab.client.session.peer, session.peer
        if not to_server:
            sender, receiver = receiver, sender
        assert isinstance(sender, Peer)
        assert isinstance(receiver, Peer)
        end = lab.server if to_server else lab.client
        before, state = dropped(end), (session.epoch, lab.client.data.choice.moves)
        said = receiver.tx_bytes
        sender.send_packets([message], lab.clock.seconds())
        lab.clock.advance(0.2)

        self.assertEqual(before + 1, dropped(end))
        self.assertEqual(state, (session.epoch, lab.client.data.choice.moves))
        self.assertEqual("udp", lab.client.carrier)
        self.assertEqual(said, receiver.tx_bytes)

    def test_toClient(self) -> None:
        """Each is a counted drop at the client, and nothing else; packets go on as they did."""
        lab = met()
        lab.clock.advance(5)  # until nobody asks anything any more
        for what, message in WRONG.items():
            with self.subTest(what):
                self.check(lab, message, to_server=False)
        self.assertLess(lab.gap(5), AT_ONCE)

    def test_toServer(self) -> None:
        """... and at the server."""
        lab = met()
        lab.clock.advance(5)
        for what, message in WRONG_TO_SERVER.items():
            with self.subTest(what):
                self.check(lab, message, to_server=True)
        self.assertLess(lab.gap(5), AT_ONCE)
        self.assertEqual([], lab.disagreements())

    def test_right(self) -> None:
        """A right one is answered; so the answers are what comes unasked, one at each end."""
        lab = met()
        session = lab.server.session("native0")
        assert session is not None
        assert session.peer is not None
        assert lab.client.session.peer is not None
        for peer in session.peer, lab.client.session.peer:
            peer.send_packets([Echo(5).to_bytes()], lab.clock.seconds())  # type: ignore[attr-defined]
        lab.clock.advance(0.2)

        self.assertEqual((1, 1), (dropped(lab.client), dropped(lab.server)))

    def test_replayed(self) -> None:
        """A message that came before is a replayed datagram, whatever it says."""
        lab = met()
        lab.both(duplicate=1.0)
        before = lab.server.counters.dropped[Drop.REPLAYED], dropped(lab.server)
        peer = lab.client.session.peer
        assert peer is not None
        peer.send_packets([Echo(5).to_bytes()], lab.clock.seconds())  # type: ignore[attr-defined]
        lab.clock.advance(0.2)

        self.assertEqual(before[0] + 1, lab.server.counters.dropped[Drop.REPLAYED])
        self.assertEqual(before[1], dropped(lab.server))

    def test_fromStock(self) -> None:
        """From a stock app any of them is malformed: nothing is said, nothing moves."""
        lab = met(1, 1)
        [stock] = lab.stocks
        session = lab.server.session("native0")
        assert session is not None
        epoch, peer = session.epoch, stock.peer(lab.server.static.public)
        messages = [*WRONG_TO_SERVER.values(), Echo(9).to_bytes(), Carrier(99, Way.TCP).to_bytes()]
        before = lab.server.counters.dropped[Drop.MALFORMED]
        received = stock.counters.total()
        for message in messages:
            peer.send_packets([message], lab.clock.seconds())
        lab.clock.advance(2)

        self.assertEqual(before + len(messages), lab.server.counters.dropped[Drop.MALFORMED])
        self.assertEqual((epoch, received), (session.epoch, stock.counters.total()))
        self.assertLess(lab.gap(5), AT_ONCE)


class CloneTests(SynchronousTestCase):
    """Two machines with one state directory: one certificate, one WireGuard key."""

    def clones(self) -> tuple[Lab, NativeClient]:
        lab = met()
        clone = NativeClient(
            lab.make_host("clone"), lab.client.places, name="native0", static=lab.client.static
        )
        lab.natives.append(clone)
        lab.clients.append(clone)
        return lab, clone

    def test_noFlapping(self) -> None:
        """The newest wins and keeps it for a minute; there is one session, and one address."""
        events: list[Any] = []
        observer = events.append
        globalLogPublisher.addObserver(observer)  # type: ignore[arg-type]
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        lab, clone = self.clones()
        holder, changes = None, []
        for _ in range(600):
            lab.clock.advance(1)
            both = [each for each in (lab.client, clone) if each.is_registered]
            self.assertLess(len(both), 2)
            self.assertEqual(1, len(lab.server.sessions))
            if both and both[0] is not holder:
                holder = both[0]
                changes.append(lab.clock.seconds())

        self.assertEqual(lab.client.address, clone.address)
        self.assertLessEqual(len(changes), 11)
        for one, other in pairwise(changes):
            self.assertGreaterEqual(other - one, 59.0)
        said = [event for event in events if "state_dir" in str(event.get("log_format"))]
        # Not when each is there for the first time, for a laptop comes back to a network, too.
        self.assertIn(len(said), range(len(changes) - 4, len(changes) - 1))
        self.assertEqual({"native0/native0"}, {event["name"] for event in said})
        self.assertEqual(
            {str(ip_address(nat)) for each in (lab.client, clone) for nat in each.host.addresses},
            {said[-1]["here"], said[-1]["there"]},
        )
        for each in lab.client, clone:
            self.assertIn("its state_dir is a copy", each.setbacks[-1])

    def test_whoHoldsItWorks(self) -> None:
        """Whoever has it talks as if there were no other."""
        lab, clone = self.clones()
        lab.clock.advance(10)
        self.assertTrue(clone.is_registered)
        self.assertEqual("udp", clone.carrier)
        [talk] = lab.talk(40, among=[1])
        self.assertEqual(0, talk.lost)
        self.assertEqual([], lab.repeated())

    def test_oneLeft(self) -> None:
        """Once the clone is off, the other is back within its minute and stays."""
        lab, clone = self.clones()
        lab.clock.advance(10)
        clone.leave()
        lab.natives.remove(clone)
        lab.clock.advance(75)
        self.assertEqual("udp", lab.client.carrier)
        [talk] = lab.talk(120, among=[0])
        self.assertEqual(0, talk.lost)


class ClockTests(SynchronousTestCase):
    """Wall clocks that are a day off, or are set while everything runs."""

    def test_dayOff(self) -> None:
        """A client whose clock is a day slow or fast is let in, like any other; so is a stock one.

        PROMISES A22.
        """
        for error in -DAY, DAY:
            lab = Lab(1, 1)
            for each in lab.clients:
                each.kill()
                lab.clock.advance(1)
                each.wall_error = error
                each.start()
            lab.meet()
            self.assertLess(lab.gap(150), AT_ONCE)

    def test_step(self) -> None:
        """Steps of an hour, a day and ten years cost nothing, right before a rekey, too.

        PROMISES A22.
        """
        for step in -3600.0, 3600.0, -DAY, 3650 * DAY, -3650 * DAY:
            lab = met(1, 1)
            lab.clock.advance(110)
            for each in (*lab.clients, lab.server):
                each.wall_error += step
            before = lab.client.session.peer
            assert before is not None
            self.assertLess(lab.gap(140), AT_ONCE, step)
            self.assertEqual("udp", lab.client.carrier)

    def test_setBackAndRestarted(self) -> None:
        """A clock set back a day and a new process: the latest timestamp sent is not undercut."""
        lab = met(1, 1)
        for each in lab.clients:
            each.kill()
            each.wall_error -= DAY
            each.start()
        self.assertLess(lab.until_heard(0, 10.0), 5.0)
        self.assertLess(lab.until_heard(1, 10.0), 5.0)
        self.assertLess(lab.until_carrier("udp", 10.0), 5.0)

    def test_memoryLost(self) -> None:
        """Who has lost that memory, too, is not let in by WireGuard, and that is counted."""
        lab = met(0, 1)
        [stock] = lab.stocks
        stock.kill()
        stock._floor = b""
        stock.wall_error -= DAY
        stock.start()

        self.assertEqual(float("inf"), lab.until_heard(0, 30.0))
        self.assertGreater(lab.server.counters.dropped[Drop.OLD_TIMESTAMP], 0)


class LyingServerTests(SynchronousTestCase):
    """A server that says what is not so, in each field of its RegisterAnswer that UDP needs."""

    def lied_to(self, **lies: Any) -> Lab:
        """A client whose server told it *lies* with its first registration, and then the truth."""
        lab = Lab()
        self.told = 0

        def welcome(
            natives: Natives, session: Session, request: Register, answer: RegisterAnswer
        ) -> RegisterAnswer:
            answer = WELCOME(natives, session, request, answer)
            self.told += 1
            return replace(answer, **lies) if self.told == 1 else answer

        self.patch(Natives, "welcome", welcome)
        lab.until_heard(0, 20.0)
        return lab

    def check(self, lab: Lab, carrier: str) -> None:
        """Packets pass *so*, and by UDP once the server tells the truth."""
        lab.clock.advance(12)
        self.assertEqual(carrier, lab.client.carrier)
        self.assertLess(lab.gap(5), AT_ONCE)
        lab.both(no_tcp=True, no_udp=True)
        lab.clock.advance(45)
        lab.network.heal()
        self.assertTrue(lab.clock.run_while(lambda: self.told < 2, 90.0))
        self.assertLess(lab.until_carrier("udp", 90.0), 90.0)
        self.assertLess(lab.gap(5), AT_ONCE)

    def test_key(self) -> None:
        """A key that is none, too short, of low order, somebody's, or our own: TLS carries."""
        for key in (
            "no key at all",
            "AAAA",
            key_to_base64(bytes(32)),
            key_to_base64(bytes([1]) + bytes(31)),
            key_to_base64(bytes(range(32))),
        ):
            with self.subTest(key):
                self.check(self.lied_to(wireguard_key=key), "tcp")

    def test_ownKey(self) -> None:
        """Also the client's own key."""
        lab = Lab()
        own = lab.client.data.public
        lab.client.kill()
        lab = self.lied_to(wireguard_key=own)
        self.check(lab, "tcp")

    def test_noKey(self) -> None:
        """None at all is a server without UDP."""
        self.check(self.lied_to(wireguard_key=""), "tcp")

    def test_token(self) -> None:
        """A token of the wrong length, of no alphabet, or that nobody gave: packets go by TLS."""
        for token in "", "AAAA", "not base64", key_to_base64(bytes(32)), "A" * 22 + "==":
            with self.subTest(token):
                self.check(self.lied_to(token=token), "tcp")

    def test_endpoints(self) -> None:
        """Places that are none, where nobody is, or that are the client itself."""
        for places in (
            (),
            ("",),
            ("127.0.0.1:51820", "[::1]:51820", "0.0.0.0:1", "224.0.0.1:51820"),
            ("198.51.100.77:51820",),
            ("203.0.0.1:51820",),
            tuple(f"198.51.100.{number}:51820" for number in range(200)),
        ):
            with self.subTest(str(places)[:40]):
                self.check(self.lied_to(wireguard_endpoints=places), "tcp")

    def test_epoch(self) -> None:
        """An epoch that leaves none above it is not believed."""
        lab = self.lied_to(epoch=MOST_EPOCH)
        self.check(lab, "udp")

    def test_agreement(self) -> None:
        """Any name of the session will do; another one next time costs a handshake."""
        for agreement in "", "x" * 64:
            with self.subTest(agreement):
                self.check(self.lied_to(agreement=agreement), "udp")

    def test_capabilities(self) -> None:
        """Words that we have not said mean nothing."""
        words = ("offload", "udp6", "path-mtu", "")
        self.check(self.lied_to(capabilities=words), "udp")

    def test_expiry(self) -> None:
        """A session said to last no time, or for ever, gets keepalives at a sane pace."""
        for expiry, least, most in ((3.0, 1, 1), (0.001, 25, 25), (1e9, 25, 25), (0.0, 25, 25)):
            with self.subTest(expiry):
                lab = self.lied_to(expiry=expiry)
                lab.clock.advance(3)
                peer = lab.client.session.peer
                assert peer is not None
                self.assertIn(peer.keepalive, range(least, most + 1))  # type: ignore[attr-defined]
                self.check(lab, "udp")


class ForeignTokenTests(SynchronousTestCase):
    """Tokens of others, on a whole server."""

    def test_stolen(self) -> None:
        """Who brings the token of another through its own tunnel gets nothing; it is counted."""
        lab = met(2)
        victim, thief = (lab.server.session(f"native{number}") for number in range(2))
        assert victim is not None
        assert thief is not None
        token = lab.natives[0].data.choice._token
        peer = lab.natives[1].session.peer
        assert peer is not None
        before, owner = dropped(lab.server), victim.peer
        peer.send_packets([Token(token).to_bytes()], lab.clock.seconds())  # type: ignore[attr-defined]
        lab.clock.advance(1)

        self.assertEqual(before + 1, dropped(lab.server))
        self.assertIs(owner, victim.peer)
        self.assertIsNot(victim.peer, thief.peer)
        self.assertEqual(0, sum(talk.lost for talk in lab.talk(5)))

    def test_everyHalfSecond(self) -> None:
        """... however often."""
        lab = met(2)
        peer = lab.natives[1].session.peer
        assert peer is not None
        for _ in range(50):
            peer.send_packets(  # type: ignore[attr-defined]
                [Token(lab.natives[0].data.choice._token).to_bytes()], lab.clock.seconds()
            )
            lab.clock.advance(EVERY)
        self.assertEqual(50, dropped(lab.server))
        self.assertEqual({"udp"}, {each.carrier for each in lab.natives})
        self.assertTrue(all(not isinstance(each, WireGuardEnd) for each in lab.natives))
