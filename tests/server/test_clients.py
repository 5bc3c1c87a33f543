"""From connection to session: what is answered when, and to whom."""

from __future__ import annotations

from pyvpn.server.clients import LOG_IN_SECONDS, REGISTER_SECONDS, SECURE_SECONDS
from pyvpn.tunnel.admission import Admission
from pyvpn.tunnel.counters import Drop
from pyvpn.wire.command import LIMIT_BEFORE_LOG_IN, Command, encode_frame
from pyvpn.wire.messages import Answer, Code, LogInAnswer
from tests.server.office import OFFICE_HOST, OfficeCase
from tests.tunnel.packets import packet

WRONG = "wrong horse"


class BeforeLogInTests(OfficeCase):
    """Who has not logged in gets nothing but a log-in."""

    def test_every_command(self) -> None:
        """Every other question is refused, whatever it is, and the third ends the connection."""
        for command in (*range(-3, 3), *range(4, 12), 2**31 - 1, -(2**31)):
            if command in (Command.ANSWER, Command.PACKET):
                continue  # never questions
            caller = self.call()
            for _ in range(2):
                answer = Answer.from_bytes(caller.answer(command, b"{}"))
                self.assertEqual((False, Code.NOT_LOGGED_IN), (answer.success, answer.code))
                self.assertFalse(caller.is_ended())

            caller.answer(command)

            self.assertTrue(caller.is_ended(), command)
        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual([], self.office.storage.made)

    def test_statements(self) -> None:
        """What wants no answer gets none, and the third ends the connection as well."""
        for command in (Command.GOODBYE, Command.HEARTBEAT, Command.LOG_IN, Command.REGISTER):
            caller = self.call()
            caller.tell(command, b"{}")
            caller.tell(command, b"{}")
            self.assertFalse(caller.is_ended())
            caller.tell(command, b"{}")

            self.assertTrue(caller.is_ended())

    def test_packets(self) -> None:
        """Packets before registration are dropped and counted, before and after log-in."""
        caller = self.call()
        caller.send(packet("10.73.0.2", OFFICE_HOST))
        caller.log_in()
        caller.send(packet("10.73.0.2", OFFICE_HOST), b"junk")

        self.assertEqual([], self.office.tun.packets)
        self.assertEqual({Drop.NOT_REGISTERED: 3}, self.office.counters.dropped)
        self.assertFalse(caller.is_ended())

    def test_limit(self) -> None:
        """A stranger's frames are small; afterwards they may hold a packet."""
        stranger = self.call()
        stranger.link.transport.write(encode_frame(Command.LOG_IN, 1, bytes(LIMIT_BEFORE_LOG_IN)))
        self.office.settle()
        self.assertTrue(stranger.is_ended())

        known = self.call()
        known.log_in()
        known.send(bytes(9000))
        self.assertFalse(known.is_ended())

    def test_second_log_in(self) -> None:
        """Who is logged in cannot log in as somebody else."""
        self.add_bob()
        caller = self.call()
        caller.log_in()
        self.assertRefused(Code.BAD_REQUEST, caller.log_in("bob"))
        self.assertRefused(Code.BAD_REQUEST, caller.log_in("bob", WRONG))
        caller.register()

        self.assertEqual("anna/laptop", self.office.session().name)
        self.assertEqual(1, self.office.verified())

    def test_two_at_once(self) -> None:
        """A second log-in while the first is under way is refused; the first goes on."""
        self.add_bob()
        caller = self.call()
        self.office.hashing.held = True
        first = caller.ask(Command.LOG_IN, caller.request("anna").to_bytes())
        second = caller.ask(Command.LOG_IN, caller.request("bob").to_bytes())
        answer = LogInAnswer.from_bytes(self.successResultOf(second))
        self.assertRefused(Code.BAD_REQUEST, answer)

        self.office.hashing.go_on()
        self.office.settle()

        self.assertTrue(LogInAnswer.from_bytes(self.successResultOf(first)).success)
        self.office.hashing.held = False
        caller.register()
        self.assertEqual("anna/laptop", self.office.session().name)

    def test_register_during_log_in(self) -> None:
        """To register while the log-in is under way is too early."""
        caller = self.call()
        self.office.hashing.held = True
        caller.ask(Command.LOG_IN, caller.request().to_bytes())

        self.assertRefused(Code.NOT_LOGGED_IN, caller.register())

    def test_known_and_unknown_commands(self) -> None:
        """After log-in a heartbeat is answered, and an unknown command refused by its code."""
        caller = self.call()
        caller.join()
        self.assertEqual(b"", caller.answer(Command.HEARTBEAT))
        for command in (9, 77, -5, 0):
            if caller.is_ended():
                caller = caller.rejoin()
            answer = Answer.from_bytes(caller.answer(command))
            self.assertEqual((False, Code.UNKNOWN_COMMAND), (answer.success, answer.code))
        caller.tell(Command.NOTICE, b"what nobody knows is ignored")

        self.assertFalse(caller.is_ended())


class TimeLimitTests(OfficeCase):
    """Each step has its time."""

    def test_tls(self) -> None:
        """10 s from accept to TLS and version."""
        caller = self.call(settle=False)
        self.office.clock.advance(SECURE_SECONDS - 0.1)
        self.assertFalse(caller.far_io.disconnecting)
        self.office.clock.advance(0.2)

        self.assertTrue(caller.far_io.disconnecting)

    def test_log_in(self) -> None:
        """20 s to log in; asking anything else does not help."""
        caller = self.call()
        self.office.advance(LOG_IN_SECONDS - 1)
        caller.answer(Command.HEARTBEAT)
        self.assertFalse(caller.is_ended())
        self.office.advance(1)

        self.assertTrue(caller.is_ended())

    def test_registration(self) -> None:
        """20 s from there to registration, then no more."""
        for registers in (False, True):
            caller = self.call()
            self.office.advance(LOG_IN_SECONDS - 1)
            caller.log_in()
            self.office.advance(REGISTER_SECONDS - 1)
            self.assertFalse(caller.is_ended())
            if registers:
                caller.register()
            self.office.advance(10)

            self.assertEqual(not registers, caller.is_ended())

    def test_hashing(self) -> None:
        """The time runs also while the server is hashing; a late answer goes nowhere."""
        self.office.hashing.held = True
        caller = self.call()
        caller.ask(Command.LOG_IN, caller.request().to_bytes())
        self.office.advance(LOG_IN_SECONDS)
        self.assertTrue(caller.is_ended())

        self.office.hashing.go_on()

        self.assertEqual(0, self.office.clients.connections)


class AdmissionTests(OfficeCase):
    """Connections that have not logged in are few."""

    def test_one_source(self) -> None:
        """One source may hold 16; the next is refused, those who wait are not pushed out."""
        waiting = [self.call() for _ in range(16)]
        late = self.call()
        other = self.call("192.0.2.3")

        self.assertTrue(late.is_ended())
        self.assertEqual([], late.owner.of("ready"))
        self.assertEqual([False] * 17, [caller.is_ended() for caller in (*waiting, other)])

    def test_in_total(self) -> None:
        """When all places are taken the oldest gives way, and a real log-in succeeds."""
        self.fresh(admission=Admission(4, 4))
        waiting = [self.call(f"192.0.2.{number}") for number in range(10, 14)]
        anna = self.call("192.0.2.99")

        self.assertTrue(anna.log_in().success)
        self.assertEqual([True, False, False, False], [each.is_ended() for each in waiting])

    def test_logged_in(self) -> None:
        """Who has logged in takes no place any more, nor who has gone."""
        self.fresh(admission=Admission(2, 2))
        anna = self.call()
        anna.join()
        first, second = self.call(), self.call()
        self.assertFalse(second.is_ended())
        first.hang_up()
        third = self.call()

        self.assertEqual([False] * 3, [each.is_ended() for each in (anna, second, third)])
        self.assertEqual(3, self.office.clients.connections)

    def test_silent_crowd(self) -> None:
        """Hundreds that say nothing hold no memory after they are gone."""
        for number in range(300):
            self.call(f"198.51.{number // 200}.{number % 200}", settle=False)
        anna = self.call()
        self.assertTrue(anna.log_in().success)
        self.office.advance(REGISTER_SECONDS + 1)

        self.assertEqual(0, self.office.clients.connections)
        self.assertEqual(0, len(self.office.clients.admission))


class OrderTests(OfficeCase):
    """The whole way."""

    def test_join(self) -> None:
        """A client is told its lease, the networks and the timings."""
        answer = self.call().join()

        self.assertEqual(
            ("10.73.0.2/24", "10.73.0.1", "fd70::1"),
            (answer.address4, answer.server4, answer.server6),
        )
        self.assertTrue(answer.address6.endswith("/64"))
        self.assertEqual(("192.168.77.0/24", "fd77::/64"), answer.routes)
        self.assertEqual(("192.168.77.53",), answer.dns)
        self.assertEqual((1420, 10.0, 60.0), (answer.mtu, answer.heartbeat, answer.expiry))

    def test_goodbye(self) -> None:
        """Goodbye ends session and connection at once; the address stays the device's."""
        anna = self.call()
        mine = anna.join()
        anna.tell(Command.GOODBYE)

        self.assertTrue(anna.is_ended())
        self.assertEqual({}, self.office.clients.sessions)
        self.assertEqual(0, self.office.leases.in_use)
        self.assertIsNotNone(self.store.leases()[0].released)
        again = anna.again()
        again.answer(Command.LOG_IN, b"{}")
        self.assertEqual(mine, again.register())

    def test_goodbye_before_registration(self) -> None:
        """Who leaves before that leaves no trace."""
        anna = self.call()
        anna.log_in()
        anna.tell(Command.GOODBYE)
        anna.hang_up()

        self.assertEqual(0, self.office.clients.connections)
        self.assertEqual([], self.store.leases())
