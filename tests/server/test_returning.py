"""Devices of ours that come by UDP alone, and those who must not."""

from __future__ import annotations

from base64 import b64decode, b64encode

from pyvpn.crypto.x25519 import key_to_base64
from pyvpn.server.natives import Natives
from pyvpn.server.returning import Returning
from pyvpn.store.records import Device, Remembered, User
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.session import Session
from pyvpn.wire.command import Command
from pyvpn.wire.messages import Code, Register, RegisterAnswer
from pyvpn.wire.native import Carrier, Echo, EchoReply, Resume, Resumed, Token, Way, parse
from tests.server.office import HASH, OFFICE_HOST, Caller, OfficeCase
from tests.store.cases import NOON
from tests.tunnel.packets import packed, packet
from tests.tunnel.wires import End, Net

GONE = 70.0


class ReturningTests(OfficeCase):
    """A client that has registered, proved its key, and comes again without a connection."""

    def setUp(self) -> None:
        super().setUp()
        self.objections: list[str] = []
        self.net = Net()
        self.net.now = self.office.clock.seconds()
        self.client, self.server = self.net.end("198.51.100.1"), self.net.end("203.0.113.1")
        self.heard: list[object] = []
        self.client.native = (  # type: ignore[method-assign]
            lambda peer, payloads, now: self.heard.extend(map(parse, payloads))
        )
        self.serve()
        self.caller = Caller(self.office)
        self.answer = self.come(self.caller, self.client)
        self.address = self.answer.address4.partition("/")[0]

    def serve(self) -> None:
        """Put the server's parts together, as a start does."""
        self.natives = Natives(
            self.server.wg, self.office.counters, lambda: (":51820",), lambda: 1420
        )
        self.natives.returning = self.returning = Returning(
            self.server.wg,
            self.natives.claims,
            objection=self.objection,
            lease=self.office.leases.get,
            begin=self.office.clients.resume,
            mtu=lambda: 1420,
            store=self.store,
            storage=self.office.storage,  # type: ignore[arg-type]  # see tests/net/at_once.py
        )
        self.office.clients.natives = self.natives
        self.server.native = self.natives.received  # type: ignore[method-assign]
        self.server.deliver = self.deliver  # type: ignore[method-assign]
        self.server.expected = self.returning.expected  # type: ignore[method-assign]
        self.look()

    def objection(self, user: User, device: Device) -> str:
        return "user disabled" if user.disabled else "".join(self.objections)

    def look(self) -> None:
        """Do what the server does once it sees that the database has changed."""
        self.office.look()
        users = {user.id: user for user in self.store.users()}
        self.returning.take_over(self.store.devices(), users)
        self.returning.remember(self.store.peers())

    def deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        session = peer.owner or self.natives.owner(peer, now)
        if isinstance(session, Session):
            self.office.router.packets_from_session(session, packets, now)

    def come(self, caller: Caller, client: End, **log_in: str) -> RegisterAnswer:
        """Log in, register and prove the key."""
        self.assertTrue(caller.log_in(**log_in).success)
        request = Register(wireguard_key=key_to_base64(client.public))
        data = caller.answer(Command.REGISTER, request.to_bytes())
        answer = RegisterAnswer.from_bytes(data)
        self.say(Token(b64decode(answer.token)), client=client)
        return answer

    def say(self, *messages: Token | Carrier | Resume | Echo, client: End | None = None) -> None:
        """Say something through a tunnel, made if there is none."""
        client = client or self.client
        self.net.now = max(self.net.now + 0.05, self.office.clock.seconds())
        peer = client.wg.add_peer(self.server.public)
        assert peer is not None
        peer.endpoint = self.server.place
        peer.is_native = True
        peer.send_packets([each.to_bytes() for each in messages], self.net.now)
        self.net.settle()

    def forget_keys(self) -> None:
        """The client's process ends, and another one begins."""
        self.client.wg.remove_peer(self.server.public)
        self.heard.clear()

    def leave(self) -> None:
        """The connection ends, and then the session."""
        self.caller.hang_up()
        self.office.advance(GONE)
        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual({}, self.server.wg.peers)
        self.forget_keys()

    def resumed(self) -> Resumed | None:
        """What the server has said last of that kind."""
        found = [each for each in self.heard if isinstance(each, Resumed)]
        return found[-1] if found else None

    # -- who may

    def test_onFile(self) -> None:
        """The key that was proved is on file, and is the device's."""
        [device] = self.store.devices()
        self.assertEqual(self.client.public, device.public_key)
        self.assertFalse(device.is_stock)

    def test_comes(self) -> None:
        """A device whose session has ended has one again, with its lease, when it says a word."""
        self.leave()
        self.say(Resume())
        session = self.office.session()
        self.assertEqual("anna/laptop", session.name)
        resumed = self.resumed()
        assert resumed is not None
        self.assertEqual({packed(self.address), session.addresses[1]}, set(resumed.addresses))
        self.assertIs(session.carrier, session.peer)
        self.say(Carrier(resumed.epoch + 1, Way.UDP))
        up = [packet(self.address, OFFICE_HOST), packet("10.73.0.99", OFFICE_HOST)]
        self.client.wg.peers[self.server.public].send_packets(up, self.net.now)
        self.net.settle()
        self.assertEqual(up[:1], self.office.tun.packets)
        self.assertEqual(1, session.drops.dropped["source-not-own"])
        [lease] = self.store.leases()
        self.assertIsNone(lease.released)

    def test_packetFirst(self) -> None:
        """A packet is as good a word as any, and the server says unasked whose session it is."""
        self.leave()
        peer = self.client.wg.add_peer(self.server.public)
        assert peer is not None
        peer.endpoint, peer.is_native = self.server.place, True
        self.net.now = self.office.clock.seconds() + 1
        peer.send_packets([packet(self.address, OFFICE_HOST)], self.net.now)
        self.net.settle()
        self.assertEqual(1, len(self.office.tun.packets))
        self.assertIsNotNone(self.resumed())

    def test_sameSession(self) -> None:
        """While the session is there, it is that one, with its agreement and its epoch."""
        session = self.office.session()
        self.say(Carrier(7, Way.UDP))
        self.forget_keys()
        self.say(Resume())
        resumed = self.resumed()
        assert resumed is not None
        self.assertIs(session, self.office.session())
        self.assertEqual(
            (self.answer.agreement, 7), (b64encode(resumed.agreement).decode(), resumed.epoch)
        )

    def test_oldTokenAndResume(self) -> None:
        """Who brings a token that nobody knows any more is known by what is on file."""
        self.leave()
        self.say(Token(bytes(16)), Resume())
        self.assertIsNotNone(self.resumed())

    def test_registersThen(self) -> None:
        """A registration finds the tunnel, and by its name of the session what that carries."""
        self.leave()
        self.say(Resume())
        resumed, session = self.resumed(), self.office.session()
        assert resumed is not None
        for agreement, carrier in (
            (b64encode(resumed.agreement).decode(), session.peer),
            ("another", None),
        ):
            caller = self.caller.again()
            caller.answer(Command.LOG_IN, b"{}")
            request = Register(
                wireguard_key=key_to_base64(self.client.public), carrier="udp", agreement=agreement
            )
            caller.answer(Command.REGISTER, request.to_bytes())
            self.assertIs(session, self.office.session())
            self.assertIs(carrier or session.link, session.carrier)

    def test_throughTheTunnel(self) -> None:
        """Packets never ride a connection that comes from the session's own address."""
        self.leave()
        self.say(Resume())
        session = self.office.session()
        caller = self.caller.rejoin(self.address)
        self.assertIsNotNone(session.link)
        self.assertIsNot(session.link, session.carrier)
        self.assertFalse(session.link_carries)
        self.assertFalse(caller.is_ended())
        outside = self.caller.rejoin()
        self.assertEqual([Code.REPLACED], caller.codes())
        self.assertIs(session.link, session.carrier)
        self.assertFalse(outside.is_ended())

    # -- who may not

    def refused(self, reason: str = "unknown-peer") -> None:
        """The client comes, and there is no answer of any kind."""
        before, sent = self.server.dropped(reason), len(self.server.sent)
        self.forget_keys()
        self.say(Resume())
        self.assertEqual(before + 1, self.server.dropped(reason))
        self.assertEqual(sent, len(self.server.sent))
        self.assertEqual([], self.heard)
        self.assertEqual({}, self.office.clients.sessions)

    def test_disabled(self) -> None:
        """A disabled user's device gets no answer; enabled again it does."""
        self.leave()
        self.store.set_disabled("anna", True)
        self.look()
        self.refused()
        self.store.set_disabled("anna", False)
        self.look()
        self.net.now += 10
        self.say(Resume())
        self.assertIsNotNone(self.resumed())

    def test_objection(self) -> None:
        """Nor does one that would have to prove its password again at log-in."""
        self.leave()
        self.objections.append("password proved too long ago")
        self.refused()

    def test_removed(self) -> None:
        """Nor one that was removed, alone or with its user."""
        self.leave()
        [device] = self.store.devices()
        self.store.remove_device(device.id)
        self.look()
        self.refused()

    def test_leaseGone(self) -> None:
        """Nor one whose lease is gone, or would be another one now."""
        self.leave()
        [device] = self.store.devices()
        self.office.leases.reserve_fixed(self.anna.id, packed("10.73.0.50"), None)
        self.store.set_fixed("anna", packed("10.73.0.50"), None)
        self.look()
        self.forget_keys()
        self.say(Resume())
        self.assertEqual([], self.heard[1:])
        self.assertIsNone(self.resumed())
        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual({}, self.server.wg.peers)
        self.office.leases.forget(device.id, self.office.unix())
        self.refused()

    def test_strangersKey(self) -> None:
        """Nor a key that was named and never proved."""
        stranger = self.net.end("198.51.100.9")
        self.store.add_user("bob", HASH, NOON)
        bob = Caller(self.office)
        self.assertTrue(bob.log_in("bob").success)
        request = Register(wireguard_key=key_to_base64(stranger.public))
        bob.answer(Command.REGISTER, request.to_bytes())
        bob.hang_up()
        self.leave()
        before = self.server.dropped("unknown-peer")
        self.say(Resume(), client=stranger)
        self.assertEqual(before + 1, self.server.dropped("unknown-peer"))

    def test_replayed(self) -> None:
        """A handshake that was recorded makes nobody appear, now or after the session's end."""
        recorded = self.client.of_kind(1)[0].datagram
        self.leave()
        before = self.server.dropped("handshake-replayed")
        self.server.wg.received([recorded], self.client.place, 0, self.net.now)
        self.server.wg.work(self.net.now)
        self.assertEqual(before + 1, self.server.dropped("handshake-replayed"))
        self.assertEqual({}, self.office.clients.sessions)

    def test_handshakeAlone(self) -> None:
        """One that was held back, and is new, is answered, and still nobody is here."""
        self.leave()
        self.net.lose = lambda end, sent: end is self.client
        self.say(Resume())
        held = self.client.of_kind(1)[-1].datagram
        self.net.lose = lambda end, sent: end is self.server
        self.server.wg.received([held], self.client.place, 0, self.net.now)
        self.server.wg.work(self.net.now)
        self.assertEqual({}, self.office.clients.sessions)

    def test_kicked(self) -> None:
        """Who is put out while here by UDP alone is out, keys and all, and gets no answer."""
        self.leave()
        self.say(Resume())
        self.store.set_disabled("anna", True)
        self.look()
        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual({}, self.server.wg.peers)
        self.net.now += 10
        self.refused()

    def test_keyGoesToWhoProvedIt(self) -> None:
        """A key that another device proves is that one's; a connected one keeps it."""
        self.add_bob()
        bob = Caller(self.office)
        self.come(bob, self.client, user="bob")
        keys = {device.user: device.public_key for device in self.store.devices()}
        self.assertEqual(self.client.public, keys[self.anna.id])
        self.leave()
        bob = Caller(self.office)
        self.come(bob, self.client, user="bob")
        keys = {device.user: device.public_key for device in self.store.devices()}
        self.assertIsNone(keys[self.anna.id])
        self.assertIn(self.client.public, keys.values())

    def test_timestampReset(self) -> None:
        """An operator can have the newest timestamp forgotten, as for stock devices."""
        self.leave()
        [device] = self.store.devices()
        self.store.save_peers([Remembered(device.id, None, None, b"\xff" * 12)])
        self.look()
        self.refused("handshake-replayed")
        self.store.reset_peer(device.id)
        self.look()
        self.net.now += 10
        self.forget_keys()
        self.say(Resume())
        self.assertIsNotNone(self.resumed())

    def test_timestampResetOfANewDevice(self) -> None:
        """Also if the device was enrolled while the server ran, and nothing else was changed."""
        self.leave()
        [device] = self.store.devices()
        self.returning._stamps[self.client.public] = b"\xff" * 12
        self.store.reset_peer(device.id)
        self.look()
        self.net.now += 10
        self.forget_keys()
        self.say(Resume())
        self.assertIsNotNone(self.resumed())

    def test_keyThatWasNotSaved(self) -> None:
        """A key that is not on file although it was proved is put there with the next proof."""
        [device] = self.store.devices()
        self.store._change("UPDATE device SET public_key = NULL WHERE id = ?", device.id)
        self.look()
        caller = self.caller.again()
        caller.answer(Command.LOG_IN, b"{}")
        request = Register(wireguard_key=key_to_base64(self.client.public), carrier="udp")
        answer = RegisterAnswer.from_bytes(caller.answer(Command.REGISTER, request.to_bytes()))
        self.say(Token(b64decode(answer.token)))
        [device] = self.store.devices()
        self.assertEqual(self.client.public, device.public_key)

    def test_notAnsweredBeforeTied(self) -> None:
        """An echo of somebody on file is a word like any other; of nobody, nothing."""
        self.leave()
        self.say(Echo(1))
        self.assertIn(EchoReply(1, 12), self.heard)
