"""How the sockets of a UDP port are made, and what is done where the kernel refuses."""

from __future__ import annotations

import errno
import socket

from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.errors import HostError
from pyvpn.net.bpf import MESSAGES, SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF, junk_filter
from pyvpn.net.udp import UdpPort
from pyvpn.net.udp_sockets import (
    DATA_BUFFER,
    HANDSHAKE_BUFFER,
    TRIES,
    KernelUdpSystem,
    PortTaken,
    open_port,
)
from pyvpn.tunnel.counters import Counters
from tests.net.udp_systems import FakeUdpSystem, KeepingProtocol, KernelOutside

V4, V6 = socket.AF_INET, socket.AF_INET6
SHARING = socket.SOL_SOCKET, socket.SO_REUSEPORT
NO_SUCH_INTERFACE = socket.SOL_SOCKET, 62
RECEIVE_BUFFER = socket.SOL_SOCKET, 33
SHED = junk_filter(MESSAGES)


class OpenTests(SynchronousTestCase):
    """Against a stand-in."""

    def setUp(self) -> None:
        self.system = FakeUdpSystem()

    def test_four_a_family(self) -> None:
        """Each family has a socket for data, two for handshakes, and the guard."""
        port, families = open_port(self.system, "", 0, 0, SHED)

        self.assertEqual({V4, V6}, set(families))
        for sockets in families.values():
            self.assertEqual("", sockets.undivided)
            for each in sockets.data, sockets.knocks, sockets.answers, sockets.guard:
                self.assertEqual(port, each.getsockname()[1])
        self.assertEqual(8, len(self.system.sockets))

    def test_guard_alone_does_not_share(self) -> None:
        """Those that receive go on sharing, or nobody would sort for them; the guard ends it."""
        _, families = open_port(self.system, "", 0, 0, SHED)

        for sockets in families.values():
            three = sockets.data, sockets.knocks, sockets.answers
            receiving = [each.options for each in three]
            self.assertEqual([1, 1, 1], [options[SHARING] for options in receiving])
            self.assertEqual(0, sockets.guard.options[SHARING])
            self.assertIn(NO_SUCH_INTERFACE, sockets.guard.options)
            self.assertFalse(any(NO_SUCH_INTERFACE in options for options in receiving))

    def test_buffers(self) -> None:
        """A flood of handshakes has little room; data has much."""
        _, families = open_port(self.system, "", 0, 0, SHED)

        for sockets in families.values():
            self.assertEqual(DATA_BUFFER, sockets.data.options[RECEIVE_BUFFER])
            for each in sockets.knocks, sockets.answers:
                self.assertEqual(HANDSHAKE_BUFFER, each.options[RECEIVE_BUFFER])

    def test_no_right_to_large_buffers(self) -> None:
        """Who may not go beyond the system's limit takes what there is."""
        self.system.refuse_option[RECEIVE_BUFFER] = errno.EPERM

        _, families = open_port(self.system, "", 0, 0, SHED)

        asked = families[V4].data.options[socket.SOL_SOCKET, socket.SO_RCVBUF]
        self.assertEqual(DATA_BUFFER, asked)

    def test_without_version_6(self) -> None:
        """A host without IPv6 has a port in IPv4 alone, and the other way round."""
        for missing, there in (V6, V4), (V4, V6):
            for number in errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT:
                self.system.refuse_family = {missing: number}

                _, families = open_port(self.system, "", 0, 0, SHED)

                self.assertEqual({there}, set(families))

    def test_without_any_version(self) -> None:
        """A host without both is told so."""
        self.system.refuse_family = {V4: errno.EAFNOSUPPORT, V6: errno.EAFNOSUPPORT}

        error = self.assertRaises(HostError, open_port, self.system, "", 7, 0, SHED)

        self.assertEqual("cannot open UDP port 7: there is neither IPv4 nor IPv6", str(error))

    def test_wanted_version_missing(self) -> None:
        """Who asks for an address of a family that is not there is refused."""
        self.system.refuse_family = {V6: errno.EAFNOSUPPORT}

        error = self.assertRaises(HostError, open_port, self.system, "::1", 7, 0, SHED)

        self.assertIn("cannot open UDP port 7 at ::1: Address family not supported", str(error))

    def test_chosen_port_taken_in_the_other_family(self) -> None:
        """The kernel chooses again, until a port is free in both families."""
        self.system.refuse_bind = lambda family, port: (
            errno.EADDRINUSE if family == V6 and port < 50_003 else 0
        )

        port, families = open_port(self.system, "", 0, 0, SHED)

        self.assertEqual((50_003, {V4, V6}), (port, set(families)))
        self.assertEqual(8, len(self.system.sockets))

    def test_every_chosen_port_taken(self) -> None:
        """It does not choose for ever."""
        bound = []
        self.system.refuse_bind = lambda family, port: (
            bound.append(family) or (errno.EADDRINUSE if family == V6 else 0)
        )

        self.assertRaises(PortTaken, open_port, self.system, "", 0, 0, SHED)

        self.assertEqual(TRIES, bound.count(V6))
        self.assertEqual(set(), self.system.sockets)

    def test_given_port_taken_in_one_family(self) -> None:
        """A port that was asked for is had in both families or not at all, at the first try."""
        tries = []
        self.system.refuse_bind = lambda family, port: (
            tries.append(family) or (errno.EADDRINUSE if family == V6 else 0)
        )

        self.assertRaises(PortTaken, open_port, self.system, "", 7, 0, SHED)

        self.assertEqual(1, tries.count(V6))
        self.assertEqual(set(), self.system.sockets)

    def test_sharer_found_out(self) -> None:
        """Whoever has the port, and is ready to share it, is not joined."""
        for family, address in (V4, ("", 7)), (V6, ("::", 7, 0, 0)):
            other = self.system.socket(family)
            other.setsockopt(*SHARING, 1)
            other.bind(address)

            self.assertRaises(PortTaken, open_port, self.system, "", 7, 0, SHED)

            other.close()

    def test_undivided(self) -> None:
        """Where one step of the sorting is refused, there is one socket, and a reason."""
        for option, number, why in (
            (SHARING, errno.ENOPROTOOPT, "Protocol not available"),
            (NO_SUCH_INTERFACE, errno.EPERM, "Operation not permitted"),
            (
                (socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF),
                errno.EPERM,
                "Operation not permitted",
            ),
        ):
            self.system.refuse_option = {option: number}

            port, families = open_port(self.system, "", 0, 0, SHED)

            for sockets in families.values():
                self.assertEqual(why, sockets.undivided)
                self.assertIsNone(sockets.knocks)
                self.assertEqual(port, sockets.data.getsockname()[1])
                sockets.close()
            self.assertEqual(set(), self.system.sockets)

    def test_guard_that_does_not_guard(self) -> None:
        """Where somebody else could bind the port all the same, it is not shared."""
        bind = self.system.bind

        def binds_everything(sock: object, address: tuple[object, ...]) -> None:
            try:
                bind(sock, address)
            except OSError:
                if not sock.shares():
                    raise

        self.patch(self.system, "bind", binds_everything)

        _, families = open_port(self.system, "", 0, 0, SHED)

        self.assertEqual(
            {"another process could bind the port too"},
            {sockets.undivided for sockets in families.values()},
        )
        self.assertEqual(2, len(self.system.sockets))

    def test_junk_filter_refused(self) -> None:
        """Without the filter the port works, at the price of a system call for each junk."""
        self.system.refuse_option = {(socket.SOL_SOCKET, SO_ATTACH_FILTER): errno.ENOMEM}

        _, families = open_port(self.system, "", 0, 0, SHED)

        self.assertEqual({""}, {sockets.undivided for sockets in families.values()})

    def test_refusals(self) -> None:
        """Each way in which the kernel refuses a port is answered with its cure."""
        for number, text in (
            (errno.EACCES, "CAP_NET_BIND_SERVICE"),
            (errno.EMFILE, "ulimit -n"),
            (errno.EADDRNOTAVAIL, "does not have that address"),
            (errno.ENOMEM, "Cannot allocate memory"),
        ):
            self.system.refuse_bind = lambda family, port, number=number: number

            error = self.assertRaises(HostError, open_port, self.system, "192.0.2.1", 7, 0, SHED)

            self.assertIn("cannot open UDP port 7 at 192.0.2.1: ", str(error))
            self.assertIn(text, str(error))
            self.assertEqual(set(), self.system.sockets)

    def test_no_address(self) -> None:
        """A name is no address: nobody here looks names up."""
        for host in "localhost", "10.0.0.0/24", "x" * 70:
            error = self.assertRaises(HostError, open_port, self.system, host, 7, 0, SHED)
            self.assertIn("that is no address", str(error))

    def test_told_once(self) -> None:
        """That data and handshakes share is said once for a port, not once for each family."""
        self.system.refuse_option = {NO_SUCH_INTERFACE: errno.EPERM}
        udp = UdpPort(MemoryReactorClock(), KeepingProtocol(), Counters(), system=self.system)
        self.addCleanup(udp.close)

        with capturedLogs() as logs:
            port = udp.open(0)

        self.assertEqual(
            [
                f"UDP port {port}: handshakes and data share one socket, so a flood of the former"
                " crowds out the latter: Operation not permitted"
            ],
            [formatEvent(event) for event in logs],
        )


class KernelTests(SynchronousTestCase):
    """Against the kernel."""

    def setUp(self) -> None:
        self.system = KernelOutside(self.addCleanup).system
        self.port, self.families = open_port(self.system, "", 0, 0, SHED)
        for sockets in self.families.values():
            self.addCleanup(sockets.close)

    def bind(self, family: int, address: tuple[object, ...], **options: int) -> str:
        """Bind as another process of our user would; return "bound" or the error's name."""
        with socket.socket(family, socket.SOCK_DGRAM) as other:
            for name, value in options.items():
                level = socket.IPPROTO_IPV6 if name.startswith("IPV6") else socket.SOL_SOCKET
                other.setsockopt(level, getattr(socket, name), value)
            try:
                other.bind(address)
            except OSError as error:
                return errno.errorcode[error.errno or 0]
            return "bound"

    def test_not_shared(self) -> None:
        """Nobody else can bind the port, however ready to share it: not any, not one address."""
        for options in {}, {"SO_REUSEPORT": 1}, {"SO_REUSEPORT": 1, "SO_REUSEADDR": 1}:
            for family, address in (
                (V4, ("", self.port)),
                (V4, ("127.0.0.1", self.port)),
                (V6, ("::", self.port)),
                (V6, ("::1", self.port)),
            ):
                self.assertEqual("EADDRINUSE", self.bind(family, address, **options))
            dual = self.bind(V6, ("::", self.port), IPV6_V6ONLY=0, **options)
            self.assertEqual("EADDRINUSE", dual)
        # So would it be without the guards: what they are there for.
        for sockets in self.families.values():
            sockets.guard.close()
        self.assertEqual("bound", self.bind(V4, ("", self.port), SO_REUSEPORT=1))
        self.assertEqual("bound", self.bind(V6, ("::", self.port), SO_REUSEPORT=1, IPV6_V6ONLY=1))

    def test_sorted(self) -> None:
        """Each socket has what is meant for it, in both families."""
        for family, host in (V4, "127.0.0.1"), (V6, "::1"):
            with socket.socket(family, socket.SOCK_DGRAM) as outside:
                for kind, size in (1, 148), (4, 32), (2, 92), (4, 1452), (3, 64):
                    outside.sendto(bytes([kind]) + bytes(size - 1), (host, self.port))
                outside.sendto(bytes([1]) + bytes(131) + b"a valid mac2 or ", (host, self.port))
            sockets = self.families[family]
            found = {}
            for name in "knocks", "answers", "data", "guard":
                found[name] = []
                while True:
                    try:
                        found[name].append(getattr(sockets, name).recv(65_536)[0])
                    except BlockingIOError:
                        break

            sorted_ = {"knocks": [1], "answers": [2, 3, 1], "data": [4, 4], "guard": []}
            self.assertEqual(sorted_, found)

    def test_one_family_taken(self) -> None:
        """A port that is taken in IPv6 only is refused as a whole, and given back in IPv4."""
        with socket.socket(V6, socket.SOCK_DGRAM) as other:
            other.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            other.bind(("::", 0))
            port = other.getsockname()[1]

            self.assertRaises(PortTaken, open_port, self.system, "", port, 0, SHED)

            self.assertEqual("bound", self.bind(V4, ("", port)))

    def test_sharer_found_out(self) -> None:
        """Whoever has the port, and is ready to share it, is not joined."""
        for family, host in (V4, ""), (V6, "::"):
            with socket.socket(family, socket.SOCK_DGRAM) as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                other.bind((host, 0))
                port = other.getsockname()[1]

                self.assertRaises(PortTaken, open_port, self.system, "", port, 0, SHED)

    def test_one_address_each(self) -> None:
        """Ports of the same number at different addresses stand side by side."""
        opened = [
            open_port(KernelUdpSystem(), host, self.port + 1, 0, SHED)[1]
            for host in ("127.0.0.1", "127.0.0.2", "::1")
        ]

        for [sockets] in (families.values() for families in opened):
            self.assertEqual("", sockets.undivided)
            sockets.close()

    def test_not_our_address(self) -> None:
        """An address that this host does not have is refused in words."""
        error = self.assertRaises(HostError, open_port, self.system, "192.0.2.1", 7, 0, SHED)

        self.assertIn("this host does not have that address", str(error))
