"""Our own clients by UDP, from the registration on: keys, tokens, the chosen carrier."""

from __future__ import annotations

from base64 import b64decode

from pyvpn.crypto.suite import AES_GCM, CHACHA
from pyvpn.crypto.x25519 import key_to_base64
from pyvpn.server.natives import Natives
from pyvpn.tunnel.peer import Peer
from pyvpn.tunnel.session import Session
from pyvpn.wire.command import Command
from pyvpn.wire.messages import Answer, ChosenCarrier, Code, Register, RegisterAnswer
from pyvpn.wire.native import Carrier, Token, Way
from tests.server.office import OFFICE_HOST, Caller, OfficeCase
from tests.tunnel.packets import packet
from tests.tunnel.wires import Net


class NativesTests(OfficeCase):
    """A server with WireGuard, and a client that has a key."""

    def setUp(self) -> None:
        super().setUp()
        self.net = Net()
        self.net.now = self.office.clock.seconds()
        self.client, self.server = self.net.end("198.51.100.1"), self.net.end("203.0.113.1")
        self.natives = Natives(
            self.server.wg, self.office.counters, lambda: (":51820",), lambda: 1420
        )
        self.office.clients.natives = self.natives
        self.server.native = self.natives.received  # type: ignore[method-assign]
        self.server.doubted = self.natives.doubted  # type: ignore[method-assign]
        self.server.deliver = self.deliver  # type: ignore[method-assign]
        self.caller = Caller(self.office)
        self.assertTrue(self.caller.log_in().success)

    def deliver(self, peer: Peer, packets: list[bytes], now: float) -> None:
        if isinstance(peer.owner, Session):
            self.office.router.packets_from_session(peer.owner, packets, now)

    def register(self, caller: Caller | None = None, **wishes: object) -> RegisterAnswer:
        wishes.setdefault("wireguard_key", key_to_base64(self.client.public))
        request = Register(**wishes)  # type: ignore[arg-type]  # as the message has them
        data = (caller or self.caller).answer(Command.REGISTER, request.to_bytes())
        return RegisterAnswer.from_bytes(data)

    def say(self, *messages: Token | Carrier) -> None:
        """Say something through the tunnel."""
        peer = self.client.wg.add_peer(self.server.public)
        assert peer is not None
        peer.endpoint = self.server.place
        peer.is_native = True
        peer.send_packets([each.to_bytes() for each in messages], self.net.now)
        self.net.settle()

    def tie(self, answer: RegisterAnswer) -> None:
        self.say(Token(b64decode(answer.token)))

    def choose(self, carrier: str, epoch: int) -> Answer:
        word = ChosenCarrier(carrier=carrier, epoch=epoch)
        return Answer.from_bytes(self.caller.answer(Command.CARRIER, word.to_bytes()))

    def test_told(self) -> None:
        """Who names a key is told the server's, where it is, a token and an agreement."""
        answer = self.register()
        self.assertEqual(key_to_base64(self.server.public), answer.wireguard_key)
        self.assertEqual((":51820",), answer.wireguard_endpoints)
        self.assertEqual(16, len(b64decode(answer.token)))
        self.assertNotEqual("", answer.agreement)
        self.assertEqual(0, answer.epoch)

    def test_offload(self) -> None:
        """Who says it takes super-packets uncut is told that we do; it holds from the proof on."""
        answer = self.register(capabilities=("unheard-of", "offload"))
        self.assertEqual(("offload",), answer.capabilities)
        peer = self.server.wg.peers[self.client.public]
        self.assertFalse(peer.offload)
        self.tie(answer)
        self.assertTrue(peer.offload)
        again = self.register()
        self.assertEqual((), again.capabilities)
        self.tie(again)
        self.assertFalse(peer.offload)
        self.assertEqual(
            (), self.register(wireguard_key="", capabilities=("offload",)).capabilities
        )

    def test_aes(self) -> None:
        """Who takes AES-GCM is told that we do, where we do; it holds from the proof on."""
        self.assertEqual((), self.register(capabilities=("aes-gcm",)).capabilities)
        self.server.wg.suites = (CHACHA, AES_GCM)
        self.assertEqual((), self.register().capabilities)
        answer = self.register(capabilities=("aes-gcm", "offload"))
        self.assertEqual(("offload", "aes-gcm"), answer.capabilities)
        peer = self.server.wg.peers[self.client.public]
        self.assertFalse(peer.aes)
        self.tie(answer)
        self.assertTrue(peer.aes)
        self.tie(self.register(capabilities=("offload",)))
        self.assertFalse(peer.aes)

    def test_aesFromTheFirstHandshake(self) -> None:
        """The first handshake after the answer may be of AES-GCM, though no token was brought."""
        self.server.wg.suites = self.client.wg.suites = (CHACHA, AES_GCM)
        answer = self.register(capabilities=("aes-gcm",))
        to_server = self.client.wg.add_peer(self.server.public)
        assert to_server is not None
        to_server.agree_on_aes(True)
        self.tie(answer)
        peer = self.server.wg.peers[self.client.public]
        self.assertIs(self.office.session(), peer.owner)
        self.assertEqual(["AES-256-GCM"] * 2, [peer.cipher, to_server.cipher])

    def test_notAsked(self) -> None:
        """Who names none is told nothing, and has no peer."""
        answer = self.register(wireguard_key="")
        self.assertEqual(
            ("", (), "", ""),
            (answer.wireguard_key, answer.wireguard_endpoints, answer.token, answer.agreement),
        )
        self.assertEqual({}, self.server.wg.peers)

    def test_keyThatIsNone(self) -> None:
        """A key that cannot be one is refused, and counted as a fault."""
        for wrong in "x", "A" * 44, key_to_base64(bytes(32))[:-2] + "B=":
            answer = self.register(wireguard_key=wrong)
            self.assertEqual((False, Code.BAD_REQUEST), (answer.success, answer.code))
            if self.caller.is_ended():
                self.caller = self.caller.again()
                self.caller.answer(Command.LOG_IN, b"{}")
        self.assertEqual(3, self.office.statistics.faults)

    def test_byUdp(self) -> None:
        """After the token and the client's word packets go by UDP, both ways, and are checked."""
        answer = self.register()
        session = self.office.session()
        self.tie(answer)
        self.assertIsNot(session.carrier, session.peer)
        self.assertTrue(self.choose("udp", 1).success)
        self.assertIs(session.carrier, session.peer)
        address = answer.address4.partition("/")[0]
        down = packet(OFFICE_HOST, address, b"down")
        self.office.router.packets_from_tun([down], self.net.now)
        self.net.settle()
        self.assertEqual([down], self.client.received)
        up = [packet(address, OFFICE_HOST, b"up"), packet("10.73.0.99", OFFICE_HOST, b"forged")]
        self.client.wg.peers[self.server.public].send_packets(up, self.net.now)
        self.net.settle()
        self.assertEqual(up[:1], self.office.tun.packets)
        self.assertEqual(1, session.drops.dropped["source-not-own"])

    def test_wordBeforeTheProof(self) -> None:
        """To name UDP before the key is tied moves nothing."""
        self.register()
        self.assertTrue(self.choose("udp", 1).success)
        self.assertIs(self.office.session().carrier, self.office.session().link)
        self.assertEqual(0, self.office.session().epoch)

    def test_wrongWords(self) -> None:
        """Another carrier, no registration, no number: refused each time."""
        self.assertEqual(Code.BAD_REQUEST, self.choose("udp", 1).code)
        self.register()
        self.assertEqual(Code.BAD_REQUEST, self.choose("pigeon", 1).code)
        for wrong in b'{"carrier": "udp", "epoch": -1}', b'{"carrier": "udp"}':
            answer = Answer.from_bytes(self.caller.answer(Command.CARRIER, wrong))
            self.assertEqual(Code.BAD_REQUEST, answer.code)
        self.assertEqual(0, self.office.session().epoch)

    def test_overtaken(self) -> None:
        """A registration by a connection older than that in use is refused and changes nothing."""
        self.register()
        self.caller.hang_up()
        old, new = self.caller.again(), self.caller.again()
        for each in old, new:
            each.answer(Command.LOG_IN, b"{}")
        self.assertTrue(self.register(new).success)
        session = self.office.session()
        link = session.link
        late = self.register(old)
        self.assertEqual((False, Code.REPLACED), (late.success, late.code))
        self.assertIs(link, session.link)
        self.assertTrue(old.is_ended())
        self.assertEqual([], new.notices())
        newest = self.caller.again()  # while a later one takes over, as always
        newest.answer(Command.LOG_IN, b"{}")
        self.assertTrue(self.register(newest).success)
        self.assertIsNot(link, session.link)
        self.assertEqual([Code.REPLACED], new.codes())

    def test_nothingElse(self) -> None:
        """Without a connection packets go by the tunnel, if any, whatever was said last."""
        self.tie(self.register())
        session = self.office.session()
        self.assertIs(session.carrier, session.link)
        self.caller.hang_up()
        self.assertIsNotNone(session.peer)
        self.assertIs(session.carrier, session.peer)

    def test_pathMtu(self) -> None:
        """The client's word says how large packets may be; a size that no path has is refused."""
        self.tie(self.register())
        session = self.office.session()
        word = ChosenCarrier(carrier="udp", epoch=1, mtu=511)
        answer = Answer.from_bytes(self.caller.answer(Command.CARRIER, word.to_bytes()))
        self.assertEqual((Code.BAD_REQUEST, 0), (answer.code, session.epoch))
        word = ChosenCarrier(carrier="udp", epoch=1, mtu=1216)
        self.caller.answer(Command.CARRIER, word.to_bytes())
        self.assertEqual(1216, session.path_mtu)
        self.say(Carrier(2, Way.UDP, 1328))
        self.assertEqual(1328, session.path_mtu)
        self.say(Carrier(1, Way.UDP, 512))  # a word from the past
        self.assertEqual(1328, session.path_mtu)

    def test_linkLost(self) -> None:
        """While UDP carries, the end of the connection ends nothing; it may come back."""
        answer = self.register()
        self.tie(answer)
        self.choose("udp", 1)
        session, tunnel = self.office.session(), self.office.session().peer
        self.caller.hang_up()
        self.assertIs(session.carrier, tunnel)
        self.caller = self.caller.again()
        self.caller.answer(Command.LOG_IN, b"{}")
        again = self.register(carrier="udp")
        self.assertIs(session, self.office.session())
        self.assertIs(session.carrier, tunnel)
        self.assertEqual((answer.agreement, 1), (again.agreement, again.epoch))
        self.assertNotEqual(answer.token, again.token)

    def test_newProcess(self) -> None:
        """A client that starts anew has its packets by the connection until it says otherwise."""
        self.tie(self.register())
        self.choose("udp", 5)
        self.caller = self.caller.again()
        self.caller.answer(Command.LOG_IN, b"{}")
        answer = self.register()
        self.assertIs(self.office.session().carrier, self.office.session().link)
        self.assertEqual(5, answer.epoch)
        self.assertTrue(self.choose("udp", 6).success)
        self.assertIs(self.office.session().carrier, self.office.session().peer)

    def test_heardByUdp(self) -> None:
        """A session lives while anything authentic comes by either carrier, and no longer."""
        self.tie(self.register())
        self.choose("udp", 1)
        self.caller.hang_up()
        for _ in range(10):
            self.office.advance(20)
            self.net.now = self.office.clock.seconds()
            self.say(Carrier(1, Way.UDP))
        self.assertEqual(1, len(self.office.clients.sessions))
        self.office.advance(130)
        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual({}, self.server.wg.peers)

    def test_dismissed(self) -> None:
        """Whoever is sent away has no tunnel left."""
        self.tie(self.register())
        self.choose("udp", 1)
        session = self.office.session()
        self.office.clients.dismiss(session, Code.KICKED, "away")
        self.office.settle()
        self.assertEqual(["kicked"], self.caller.codes())
        self.assertEqual({}, self.server.wg.peers)
        self.assertEqual(0, len(self.natives.claims))
        self.assertIsNone(session.carrier)

    def test_stragglingGoodbye(self) -> None:
        """The goodbye of a replaced connection ends nothing."""
        self.tie(self.register())
        old = self.caller
        self.caller = self.caller.again()
        self.caller.answer(Command.LOG_IN, b"{}")
        self.register(carrier="udp")
        old.tell(Command.GOODBYE)
        self.assertEqual(1, len(self.office.clients.sessions))
        self.assertIsNotNone(self.office.session().peer)

    def test_doubt(self) -> None:
        """Unanswered packets have the server ask the client, by the connection, not judge."""
        answer = self.register()
        self.tie(answer)
        self.choose("udp", 1)
        self.net.run(12)
        self.caller.owner.told.clear()
        self.net.lose = lambda end, sent: True
        down = packet(OFFICE_HOST, answer.address4.partition("/")[0], b"down")
        self.office.router.packets_from_tun([down], self.net.now)
        self.net.run(3.5)
        self.office.settle()
        asked = [each[1] for each in self.caller.owner.of("question")]
        self.assertEqual([Command.HEARTBEAT], asked)
        self.assertIs(self.office.session().carrier, self.office.session().peer)
