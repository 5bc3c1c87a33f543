"""What those cost who have not logged in, and those who are gone before they were answered."""

from __future__ import annotations

from ipaddress import ip_network

from twisted.logger import capturedLogs

from pyvpn.net.control import MOST_FAULTS
from pyvpn.server.listen import Relays
from pyvpn.tunnel.admission import Admission
from pyvpn.tunnel.counters import Drop
from pyvpn.wire.command import NO_TRANSACTION, Command, encode_frame
from tests.server.office import OFFICE_HOST, Caller, OfficeCase
from tests.server.test_listen import RELAY, V1_4, V1_6, V1_UNKNOWN, V2_LOCAL
from tests.tunnel.packets import packet

PACKET = packet("10.73.0.2", OFFICE_HOST)


class FaultTests(OfficeCase):
    """What no honest client sends before its log-in."""

    def answer(self, caller: Caller, *transactions: int) -> None:
        """Send answers to questions that nobody asked."""
        frames = [encode_frame(Command.ANSWER, number) for number in transactions]
        caller.link.transport.write(b"".join(frames))
        self.office.settle()

    def test_packets(self) -> None:
        """Packets before log-in are dropped, and the third time the connection ends."""
        caller = self.call()
        for _ in range(MOST_FAULTS):
            self.assertFalse(caller.is_ended())
            caller.send(PACKET, PACKET)

        self.assertTrue(caller.is_ended())
        self.assertEqual({Drop.NOT_REGISTERED: 6}, self.office.counters.dropped)
        self.assertEqual(3, self.office.statistics.faults)

    def test_answers(self) -> None:
        """So it is with answers that nobody asked for."""
        for transactions in ((1,), (NO_TRANSACTION, 1, 2)):
            caller = self.call()
            for _ in range(MOST_FAULTS):
                self.assertFalse(caller.is_ended())
                self.answer(caller, *transactions)

            self.assertTrue(caller.is_ended())

    def test_once(self) -> None:
        """What was counted once is not counted again with what comes next."""
        caller = self.call()
        self.answer(caller, 1)
        caller.link.transport.write(encode_frame(Command.LOG_IN, 1)[:5])
        self.office.settle()

        self.assertEqual(1, self.office.statistics.faults)
        self.assertFalse(caller.is_ended())

    def test_after_log_in(self) -> None:
        """After the log-in neither ends a connection: packets may be early, and answers late."""
        caller = self.call()
        caller.log_in()
        for _ in range(10):
            caller.send(PACKET)
            self.answer(caller, 1)

        self.assertFalse(caller.is_ended())
        self.assertEqual(0, self.office.statistics.faults)


class RelayedAdmissionTests(OfficeCase):
    """The share of one source, behind a relay that says who it is."""

    def setUp(self) -> None:
        super().setUp()
        self.fresh(
            relays=Relays([ip_network("198.18.1.0/24")], [ip_network("198.18.0.0/24")]),
            admission=Admission(5, 2),
        )

    def relayed(self, header: bytes = V1_4, count: int = 1) -> list[bool]:
        """Connect by the relay so often; who is sent away."""
        callers = [Caller(self.office, RELAY, header=header) for _ in range(count)]
        return [caller.is_ended() for caller in callers]

    def test_share(self) -> None:
        """A source has its share and no more; another one behind the same relay has its own."""
        self.assertEqual([False, False, True], self.relayed(V1_4, 3))
        self.assertEqual([False, False, True], self.relayed(V1_6, 3))
        self.assertEqual(4, len(self.office.clients.admission))

    def test_direct(self) -> None:
        """Who comes both ways has one share."""
        self.assertEqual([False, False], self.relayed(V1_4, 2))
        self.assertTrue(self.call("198.51.100.7").is_ended())

    def test_unnamed(self) -> None:
        """Where the relay names nobody, everybody is the relay, and only the total holds."""
        for header in (V1_UNKNOWN, V2_LOCAL):
            self.assertEqual([False] * 4, self.relayed(header, 4))

    def test_place_given_back(self) -> None:
        """Who logs in or goes makes room, also behind a relay."""
        anna = Caller(self.office, RELAY, header=V1_4)
        other = Caller(self.office, RELAY, header=V1_4)
        anna.join()
        other.hang_up()

        self.assertEqual(0, len(self.office.clients.admission))
        self.assertEqual([False, False, True], self.relayed(V1_4, 3))


class GoneTests(OfficeCase):
    """Who is gone before the server came to it costs no work and no place."""

    def test_log_in(self) -> None:
        """No device is put on file for who does not wait for its certificate."""
        self.office.hashing.held = True
        caller = self.call()
        caller.ask(Command.LOG_IN, caller.request().to_bytes())
        caller.hang_up()
        self.office.hashing.go_on()

        self.assertEqual([], self.store.devices())
        self.assertEqual(0, self.office.clients.connections)

    def test_registration(self) -> None:
        """Of many that wait for a slow disk those get addresses who are still there."""
        callers = [self.call(f"192.0.2.{number}") for number in range(20)]
        for number, caller in enumerate(callers):
            caller.log_in(device=f"device {number}")
        self.office.storage.held = True
        for caller in callers:
            caller.ask(Command.REGISTER, b"{}")
        for caller in callers[:-1]:
            caller.hang_up()
        self.office.storage.held = False
        self.office.storage.go_on()
        self.office.settle()

        # The first one's turn had come before it left.
        self.assertEqual([1, 20], [lease.device for lease in self.store.leases()])
        self.assertEqual(1, len(self.office.clients.sessions))


class WishTests(OfficeCase):
    """A client that asks for an address."""

    def said(self, *wishes: str) -> list[str]:
        """The wishes that the log says were not met."""
        caller = self.call()
        caller.log_in()
        with capturedLogs() as logs:
            caller.register(*wishes)
        return [event["wish"] for event in logs if "wish" in event]

    def test_met(self) -> None:
        """A wish that is granted, or none, is not worth a line."""
        self.assertEqual([], self.said("10.73.0.9", "fd70::9"))
        self.assertEqual([], self.said())

    def test_not_met(self) -> None:
        """Each that is not is said."""
        self.assertEqual(["10.73.0.1", "x"], self.said("10.73.0.1", "x"))
        self.assertEqual([], self.said("10.73.0.9"))
        self.assertEqual(["10.73.0.9"], self.said("10.73.0.9", "fd70::8"))
