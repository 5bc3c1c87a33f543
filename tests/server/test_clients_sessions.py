"""Sessions: taken over, dismissed, expired, and what stragglers may do (nothing)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

from pyvpn.server.clients import KICKED_SECONDS, REPLACED_SECONDS
from pyvpn.store.passwords import hash_password
from pyvpn.tunnel.counters import Drop
from pyvpn.wire.command import Command, encode_packets
from pyvpn.wire.messages import Answer, Code, Settings
from tests.server.office import (
    OFFICE_HOST,
    PASSWORD,
    TERMS,
    Caller,
    OfficeCase,
    own_address,
)
from tests.tunnel.packets import packet


class TakeOverTests(OfficeCase):
    """The same device comes by another connection."""

    def setUp(self) -> None:
        super().setUp()
        self.old = self.call()
        self.address = own_address(self.old.join())
        self.session = self.office.session()

    def test_taken_over(self) -> None:
        """The session is the same; the old connection is told, and closed."""
        new = self.old.rejoin("198.51.100.7")

        self.assertIs(self.session, self.office.session())
        self.assertEqual([Code.REPLACED], self.old.codes())
        self.assertEqual(REPLACED_SECONDS, self.old.notices()[0].retry_after)
        self.assertTrue(self.old.is_ended())
        self.assertFalse(new.is_ended())
        self.assertEqual([], new.notices())
        self.office.router.packets_from_tun([packet(OFFICE_HOST, self.address)], 0.0)
        self.office.settle()
        self.assertEqual(1, len(new.packets()))

    def test_stragglers(self) -> None:
        """What the old connection still says, as if it had been slow, changes nothing."""
        visits = self.office.clients._visits
        [old_link] = visits
        self.office.pumps.clear()  # the old one is never heard of the close
        new = self.old.rejoin()
        far = self.old.far_io.protocol.wrappedProtocol
        self.assertIs(old_link, far)
        heard = self.session.heard
        self.office.clock.advance(5)
        clients = self.office.clients

        clients.packets(far, [packet(self.address, OFFICE_HOST)])
        clients.heard(far)
        clients.statement(far, Command.GOODBYE, b"")
        self.assertEqual(heard, self.session.heard)
        self.assertIs(self.session, self.office.session())
        self.assertEqual([], self.office.tun.packets)
        clients.lost(far, ConnectionError())

        self.assertIsNot(None, self.session.carrier)
        new.send(packet(self.address, OFFICE_HOST))
        self.assertEqual(1, len(self.office.tun.packets))

    def test_lost_and_back(self) -> None:
        """A connection that breaks leaves the session; who comes back within 60 s has it again."""
        self.old.hang_up()
        self.assertIsNone(self.session.carrier)
        self.office.advance(59)
        self.old.rejoin()
        self.office.advance(5)

        self.assertIs(self.session, self.office.session())

    def test_other_device(self) -> None:
        """Another device of the same user is another session."""
        other = self.call()
        other.join(device="desktop")

        self.assertEqual(2, len(self.office.clients.sessions))
        self.assertEqual([], self.old.notices())
        self.assertFalse(self.old.is_ended())

    def test_logged_in_only(self) -> None:
        """To log in is not enough: until it has registered the old one stays."""
        new = self.old.again()
        new.answer(Command.LOG_IN, b"{}")
        self.assertFalse(self.old.is_ended())
        new.send(packet(self.address, OFFICE_HOST))

        self.assertEqual([], self.office.tun.packets)
        self.assertEqual({Drop.NOT_REGISTERED: 1}, self.office.counters.dropped)


class TimeTests(OfficeCase):
    """Silence."""

    def test_expiry(self) -> None:
        """60 s after the last word a session ends; its lease is no longer in use."""
        anna = self.call()
        anna.join()
        anna.hang_up()
        self.office.advance(59)
        self.assertEqual(1, len(self.office.clients.sessions))
        self.office.advance(1)

        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual(0, self.office.leases.in_use)
        self.assertEqual(0, len(self.office.router.sessions))
        self.assertIsNotNone(self.store.leases()[0].released)

    def test_silence(self) -> None:
        """35 s without a word end a connection, not the session."""
        anna = self.call()
        anna.join()
        self.office.advance(34)
        self.assertFalse(anna.is_ended())
        self.office.advance(1)

        self.assertTrue(anna.is_ended())
        self.assertEqual(1, len(self.office.clients.sessions))
        anna.rejoin()
        self.assertEqual(1, len(self.office.clients.sessions))

    def test_heartbeats(self) -> None:
        """Who says a word now and then stays, and so does who only sends packets."""
        anna, bob = self.call(), self.call()
        address = own_address(anna.join())
        bob.join(device="desktop")
        for _ in range(20):
            self.office.advance(10)
            anna.send(packet(address, OFFICE_HOST))
            bob.answer(Command.HEARTBEAT)

        self.assertEqual(2, len(self.office.clients.sessions))
        self.assertEqual([False, False], [anna.is_ended(), bob.is_ended()])

    def test_expired_while_connected(self) -> None:
        """Should a session expire under a connection, the client is told, to come back at once."""
        anna = self.call()
        anna.join()
        self.office.clients.expire([self.office.session()])
        self.office.settle()

        self.assertEqual([(Code.EXPIRED, 0.0)], [(n.code, n.retry_after) for n in anna.notices()])
        self.assertTrue(anna.is_ended())


class AccountTests(OfficeCase):
    """The operator changes something while the user is here."""

    def setUp(self) -> None:
        super().setUp()
        self.add_bob()
        self.caller, self.other = self.call(), self.call()
        self.address = own_address(self.caller.join())
        self.other.join("bob")

    def told(self, code: Code, seconds: float) -> None:
        """Anna is told, sent away, and gone; bob notices nothing."""
        self.office.look()
        [notice] = self.caller.notices()
        self.assertEqual((code, seconds), (notice.code, notice.retry_after))
        self.assertTrue(notice.message)
        self.assertTrue(self.caller.is_ended())
        self.assertEqual(["bob/laptop"], [s.name for s in self.office.clients.sessions.values()])
        self.assertEqual(1, self.office.leases.in_use)
        self.assertEqual(([], False), (self.other.notices(), self.other.is_ended()))

    def test_disabled(self) -> None:
        """Disabled."""
        self.store.set_disabled("anna", True)
        self.told(Code.DISABLED, KICKED_SECONDS)

    def test_removed(self) -> None:
        """Removed."""
        self.store.remove_user("anna")
        self.told(Code.KICKED, KICKED_SECONDS)

    def test_password(self) -> None:
        """Another password: every device must type it."""
        self.office.advance(1)
        self.store.set_password("anna", hash_password(PASSWORD), self.office.unix())
        self.told(Code.LOG_IN_AGAIN, 0.0)
        again = Answer.from_bytes(self.caller.again().answer(Command.LOG_IN, b"{}"))
        self.assertEqual(Code.PASSWORD_NEEDED, again.code)

    def test_address(self) -> None:
        """A fixed address: the client comes back for it at once, and gets it."""
        packed = ip_address("10.73.0.50").packed
        self.store.set_fixed("anna", packed, None)
        self.office.leases.reserve_fixed(self.anna.id, packed, None)
        self.told(Code.LOG_IN_AGAIN, 0.0)
        again = self.caller.again()
        again.answer(Command.LOG_IN, b"{}")

        self.assertEqual("10.73.0.50", own_address(again.register()))

    def test_nothing(self) -> None:
        """Nothing that matters: nobody is told anything."""
        self.store.add_user("carol", "x", 0.0)
        self.store.set_authenticated(1, 5.0)
        self.office.look()

        self.assertEqual([], self.caller.notices())
        self.assertEqual(2, len(self.office.clients.sessions))

    def test_away(self) -> None:
        """A session without a connection is ended all the same."""
        self.caller.hang_up()
        self.store.set_disabled("anna", True)
        self.office.look()

        self.assertEqual(1, len(self.office.clients.sessions))

    def test_shutdown(self) -> None:
        """At a shutdown everybody is told when to come back; strangers are cut off."""
        stranger = self.call()
        registering = self.call()
        registering.log_in(device="third")
        self.office.clients.say_goodbye(1.0)
        self.office.settle()

        for each in (self.caller, self.other, registering):
            self.assertEqual(
                [(Code.SHUTTING_DOWN, 1.0)], [(n.code, n.retry_after) for n in each.notices()]
            )
            self.assertTrue(each.is_ended())
        self.assertEqual(([], True), (stranger.notices(), stranger.is_ended()))
        self.assertEqual(0, self.office.clients.connections)


class SettingsTests(OfficeCase):
    """New terms for those who are here."""

    def setUp(self) -> None:
        super().setUp()
        self.caller = self.call()
        self.address = own_address(self.caller.join())
        self.terms = replace(
            TERMS, routes=(ip_network("10.9.0.0/16"),), heartbeat=2.0, expiry=20.0, mtu=1300
        )

    def test_pushed(self) -> None:
        """They are told, confirm, and keep their session; what is allowed changes at once."""
        self.caller.owner.answer = lambda _command, _data: Answer(True, "ok").to_bytes()
        self.office.clients.offer(self.terms)
        self.office.settle()

        [(_, command, data)] = self.caller.owner.of("question")
        self.assertEqual(Command.SETTINGS, command)
        settings = Settings.from_bytes(data)
        self.assertEqual((("10.9.0.0/16",), 1300), (settings.routes, settings.mtu))
        self.assertEqual((2.0, 20.0), (settings.heartbeat, settings.expiry))
        new, old = packet(self.address, "10.9.1.1"), packet(self.address, OFFICE_HOST)
        self.caller.send(new, old)
        self.assertEqual([new], self.office.tun.packets)
        self.office.advance(6)
        self.assertFalse(self.caller.is_ended())
        self.office.advance(1)
        self.assertTrue(self.caller.is_ended(), "the new silence is 7 s")

    def test_not_confirmed(self) -> None:
        """A client that does not confirm keeps its session too, and nothing is logged as a bug."""
        self.caller.owner.answer = lambda _command, _data: None
        self.office.clients.offer(replace(self.terms, heartbeat=10.0, expiry=60.0))
        self.office.settle()
        self.office.advance(16)

        self.assertFalse(self.caller.is_ended())
        self.assertEqual(1, len(self.office.clients.sessions))

    def test_gone(self) -> None:
        """A session without a connection is under the new terms when it comes back."""
        self.caller.hang_up()
        self.office.clients.offer(self.terms)
        new = self.caller.rejoin()
        new.send(packet(self.address, "10.9.1.1"))

        self.assertEqual(1, len(self.office.tun.packets))


class PacketTests(OfficeCase):
    """What passes."""

    def setUp(self) -> None:
        super().setUp()
        self.add_bob()
        self.start()

    def start(self, client_to_client: bool = False) -> None:
        """A server with anna and bob."""
        self.fresh(client_to_client=client_to_client)
        self.caller, self.bob = self.call(), self.call()
        answer = self.caller.join()
        self.mine, self.mine6 = own_address(answer), own_address(answer, 6)
        self.bobs = own_address(self.bob.join("bob"))

    def dropped(self) -> dict[str, int]:
        """What was dropped, by reason."""
        return dict(self.office.counters.dropped)

    def test_to_the_office(self) -> None:
        """From the own address to pushed networks and the server itself."""
        good = [
            packet(self.mine, OFFICE_HOST),
            packet(self.mine, "10.73.0.1"),
            packet(self.mine6, "fd77::20"),
            packet(self.mine6, "fd70::1"),
        ]
        self.caller.send(*good)

        self.assertEqual(good, self.office.tun.packets)
        self.assertEqual({}, self.dropped())

    def test_forged(self) -> None:
        """From any other address: dropped and counted."""
        for source in (self.bobs, "10.73.0.1", OFFICE_HOST, "8.8.8.8", "10.73.0.99"):
            self.caller.send(packet(source, OFFICE_HOST))
        self.caller.send(packet("fd70::99", "fd77::20"))

        self.assertEqual([], self.office.tun.packets)
        self.assertEqual({Drop.SOURCE: 6}, self.dropped())
        self.assertEqual(6, self.office.session(0).drops.total())
        self.assertFalse(self.caller.is_ended())

    def test_elsewhere(self) -> None:
        """To anywhere else: dropped and counted."""
        for destination in ("8.8.8.8", "192.168.78.1", "10.73.0.99", self.bobs):
            self.caller.send(packet(self.mine, destination))

        self.assertEqual([], self.office.tun.packets)
        self.assertEqual([], self.bob.packets())
        self.assertEqual({Drop.DESTINATION: 4}, self.dropped())

    def test_client_to_client(self) -> None:
        """With the option on clients reach each other, by their own addresses only."""
        self.start(client_to_client=True)
        good = packet(self.mine, self.bobs)
        self.caller.send(good, packet("10.73.0.99", self.bobs))

        self.assertEqual([good], self.bob.packets())
        self.assertEqual([], self.office.tun.packets)
        self.assertEqual({Drop.SOURCE: 1}, self.dropped())

    def test_junk(self) -> None:
        """What is no packet: dropped and counted."""
        self.caller.send(b"", b"x", bytes(20), packet(self.mine, OFFICE_HOST) + b"more")

        self.assertEqual([], self.office.tun.packets)
        self.assertEqual({Drop.MALFORMED: 4}, self.dropped())

    def test_from_the_office(self) -> None:
        """Packets from the TUN go to whom they are for, and to nobody else."""
        to_bob = packet(OFFICE_HOST, self.bobs)
        self.office.router.packets_from_tun([to_bob, packet(OFFICE_HOST, "10.73.0.99")], 0.0)
        self.office.settle()

        self.assertEqual(([], [to_bob]), (self.caller.packets(), self.bob.packets()))
        self.assertEqual({Drop.NO_ROUTE: 1}, self.dropped())

    def test_in_one_write(self) -> None:
        """Packets before the registration, in the same bytes, are dropped."""
        third = Caller(self.office)
        third.log_in(device="third")
        third.link.transport.write(encode_packets([packet("10.73.0.4", OFFICE_HOST)]))
        third.register()
        third.send(packet("10.73.0.4", OFFICE_HOST))

        self.assertEqual(1, len(self.office.tun.packets))
        self.assertEqual({Drop.NOT_REGISTERED: 1}, self.dropped())
