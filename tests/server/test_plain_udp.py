"""The plain UDP port as the server has it: configuration, time, the log."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.config import Endpoint
from pyvpn.errors import ConfigError, HostError
from pyvpn.net.plain_udp import PlainPort
from pyvpn.server.plain_udp import SUMMARY_SECONDS, PlainUdp, listen_udp
from pyvpn.wire.plain_udp import EXPIRY_SECONDS, with_header
from tests.server.test_core import CoreCase
from tests.tunnel.packets import packet

UDP = "[plain]\nudp_listen = 2003\nbypass = 192.168.77.0/24\n"
PASSWORD = b"4fb88ca224e"
ANNA = ("192.0.2.7", 40001)


class KeepingPort:
    """Stands for the socket; keeps what is sent, or refuses it."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.error = 0
        self.errors = {"EPERM": 3}

    def send(self, datagram: bytes, place: Any) -> int:
        self.sent.append((datagram, place))
        return self.error


class PlainUdpCase(CoreCase):
    """A server that was opened for the first generation's UDP protocol."""

    logs: list[LogEvent]

    def opened(self, more: str = "udp_password = 4fb88ca224e\n") -> PlainUdp:
        self.begin(UDP + more)
        found = self.whole.core.plain_udp
        assert found is not None
        self.port = KeepingPort()
        found.makeConnection(self.port)  # type: ignore[arg-type]  # all that is used of one
        return found

    def said(self, *words: str) -> list[str]:
        """What the log has of all of *words*."""
        lines = [event["log_format"].format(**event) for event in self.logs]
        return [line for line in lines if all(word in line for word in words)]


class CoreTests(PlainUdpCase):
    """As the core makes it."""

    def test_none(self) -> None:
        """Without a port there is none."""
        self.begin()
        self.assertIsNone(self.whole.core.plain_udp)

    def test_log_in(self) -> None:
        """The configured password brings an address of the configured network."""
        plain = self.opened("udp_password = horse\nudp_network = 10.9.0.0/24\n")
        plain.datagramReceived(PASSWORD, ANNA)
        plain.datagramReceived(b"horse", ANNA)

        self.assertEqual([(b"10.9.0.2;10.9.0.1", ANNA)], self.port.sent)

    def test_packets(self) -> None:
        """Packets go through the one TUN and the one router of the server."""
        plain = self.opened()
        plain.datagramReceived(PASSWORD, ANNA)
        out = packet("10.0.0.2", "192.168.77.20", b"ping")
        plain.datagramReceived(with_header(out), ANNA)
        back = packet("192.168.77.20", "10.0.0.2", b"pong")
        self.whole.router.packets_from_tun([back], self.whole.clock.seconds())

        self.assertEqual([out], self.whole.tun.packets)
        self.assertEqual((with_header(back), ANNA), self.port.sent[-1])

    def test_password_file(self) -> None:
        """The password may stand in a file of its own, which must be right."""
        path = self.mktemp()
        with open(path, "w") as file:
            file.write("horse\n")
        error = self.assertRaises(ConfigError, self.opened, f"udp_password_file = {path}\n")
        self.assertIn("chmod 600", str(error))

    def test_its_own_time(self) -> None:
        """Its sessions end after 60 s, whatever the others' time is, and take nobody along."""
        for expiry, heartbeat in (("3s", "1s"), ("1h", "10s")):
            plain = self.opened(
                "udp_password = 4fb88ca224e\n[tunnel]\n"
                f"expiry = {expiry}\nheartbeat = {heartbeat}\n"
            )
            plain.datagramReceived(PASSWORD, ANNA)
            for _ in range(59):
                self.whole.clock.advance(1)
                self.whole.core.tick()
            self.assertEqual(1, len(plain.sessions), expiry)
            self.whole.clock.advance(1)
            self.whole.core.tick()
            self.assertEqual([], plain.sessions)
            self.assertEqual(60, EXPIRY_SECONDS)

    def test_before_the_port(self) -> None:
        """Until there is a socket nothing is sent, so nobody is taken in."""
        self.begin(UDP + "udp_password = 4fb88ca224e\n")
        plain = self.whole.core.plain_udp
        assert plain is not None
        plain.datagramReceived(PASSWORD, ANNA)
        self.assertEqual([], plain.sessions)


class LogTests(PlainUdpCase):
    """What an operator reads."""

    def test_come_and_go(self) -> None:
        """Who comes and goes, and why."""
        plain = self.opened()
        with capturedLogs() as self.logs:
            plain.datagramReceived(PASSWORD, ANNA)
            plain.datagramReceived(b"e", ANNA)
            plain.tick(self.whole.clock.seconds() + 10)

        self.assertEqual(1, len(self.said("plain/10.0.0.2 is here, unencrypted")))
        self.assertEqual(1, len(self.said("plain/10.0.0.2 left: said goodbye")))

    def test_summary(self) -> None:
        """A thousand wrong passwords are two lines in two minutes, and none without any."""
        plain = self.opened()
        now = self.whole.clock.seconds()
        with capturedLogs() as self.logs:
            for second in range(int(2 * SUMMARY_SECONDS)):
                for _ in range(9):
                    plain.datagramReceived(b"guess", ANNA)
                plain.tick(now + second)
            self.assertEqual(2, len(self.said("wrong password")))
            for second in range(1000):
                plain.tick(now + 200 + second)

        self.assertEqual(3, len(self.said("wrong password")))
        self.assertEqual(3, len(self.logs))
        self.assertEqual([], self.said("guess"))

    def test_status(self) -> None:
        """What was refused, and what the kernel did not take."""
        plain = self.opened()
        plain.datagramReceived(b"guess", ANNA)
        with capturedLogs() as self.logs:
            plain.log_status()

        self.assertEqual(
            ["refused 1 times: plain-udp-wrong-password"], self.said("refused", "plain-udp")
        )
        self.assertEqual(1, len(self.said("not sent 3 times: EPERM")))


class ListenTests(SynchronousTestCase):
    """Where it is bound."""

    def setUp(self) -> None:
        self.bound: list[str] = []
        self.errors: dict[str, int] = {}

        def start(port: PlainPort) -> None:
            self.bound.append(port.interface)
            number = self.errors.get(port.interface)
            if number:
                raise CannotListenError(port.interface, port.port, OSError(number, "no"))

        self.patch(PlainPort, "startListening", start)

    def listen(self, host: str) -> PlainPort:
        return listen_udp(MemoryReactorClock(), Endpoint(host, 2003), DatagramProtocol())

    def test_everywhere(self) -> None:
        """A port alone is every address, of IPv6 and IPv4; without IPv6, of IPv4."""
        self.assertEqual(2003, self.listen("").port)
        self.assertEqual(["::"], self.bound)
        self.errors["::"] = errno.EAFNOSUPPORT
        self.listen("")
        self.assertEqual(["::", "::", "0.0.0.0"], self.bound)  # noqa: S104 - compared

    def test_one_address(self) -> None:
        """An address is that address."""
        self.listen("192.0.2.1")
        self.assertEqual(["192.0.2.1"], self.bound)

    def test_taken(self) -> None:
        """A port that somebody has is told in words."""
        self.errors["::"] = errno.EADDRINUSE
        error = self.assertRaises(HostError, self.listen, "")
        self.assertEqual(
            "cannot listen on UDP * port 2003: no: another program has that port", str(error)
        )
        self.assertEqual(["::"], self.bound)
