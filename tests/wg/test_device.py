"""A WireGuard device among others: packets, keys, and the interface it follows."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.tunnel.counters import Drop
from pyvpn.wg.loop import LoopDrop
from pyvpn.wire.datagram import DATA, INITIATION, Path, kind_of
from tests.tunnel.packets import packed, packet
from tests.wg.devices import UNIX, Host, Two

TO_RIGHT = packet("10.0.0.1", "10.0.0.2", b"ping")
TO_LEFT = packet("10.0.0.2", "10.0.0.1", b"pong")
ZERO = "00" * 32


class DeviceCase(SynchronousTestCase):
    """Two hosts, left and right, that know each other."""

    def setUp(self) -> None:
        two = Two()
        self.net, self.left, self.right = two.net, two.left, two.right

    def send(self, host: Host, *packets: bytes) -> None:
        host.device.packets_from_tun(list(packets))
        self.net.settle()

    def kinds(self, host: Host) -> list[int]:
        """Return the types of what *host* has sent since the last look."""
        found = [kind_of(datagram) for datagram, _, _ in host.port.sent]
        host.port.sent.clear()
        return found

    def peer(self, host: Host, other: Host) -> str:
        return f"public_key={other.public.hex()}"


class TrafficTests(DeviceCase):
    """Packets from one TUN to the other."""

    def test_there_and_back(self) -> None:
        """A first packet waits for the handshake and arrives; so does the answer."""
        self.send(self.left, TO_RIGHT)
        self.send(self.right, TO_LEFT)

        self.assertEqual([TO_RIGHT], self.right.tun.packets)
        self.assertEqual([TO_LEFT], self.left.tun.packets)

    def test_told(self) -> None:
        """Handshake time, bytes and endpoint are told."""
        self.send(self.left, TO_RIGHT)

        self.assertEqual(["192.0.2.1:51820"], self.right.told("endpoint"))
        (seconds,) = self.left.told("last_handshake_time_sec")
        self.assertEqual(UNIX + self.net.clock.seconds(), float(seconds))
        # Initiation and one packet, which was the confirmation too; answered by the response.
        self.assertEqual(
            (["212"], ["92"]), (self.left.told("tx_bytes"), self.left.told("rx_bytes"))
        )
        self.assertEqual(
            (["92"], ["212"]), (self.right.told("tx_bytes"), self.right.told("rx_bytes"))
        )

    def test_foreign_source(self) -> None:
        """A peer may send from its own networks only."""
        self.left.set(self.peer(self.left, self.right), "allowed_ip=10.0.0.0/24")
        self.send(self.left, packet("10.0.0.7", "10.0.0.2"), TO_RIGHT)

        self.assertEqual([TO_RIGHT], self.right.tun.packets)
        self.assertEqual(1, self.right.counters.dropped[Drop.SOURCE])

    def test_more_specific(self) -> None:
        """A more specific network of another peer takes its packets away, in both directions."""
        self.left.set(self.peer(self.left, self.right), "allowed_ip=10.0.0.0/24")
        self.send(self.left, TO_RIGHT)
        self.left.set("public_key=" + "aa" * 32, "allowed_ip=10.0.0.2/32")
        self.send(self.left, TO_RIGHT)
        self.send(self.right, TO_LEFT)
        self.assertEqual([TO_RIGHT], self.right.tun.packets)
        self.assertNotIn(TO_LEFT, self.left.tun.packets)
        self.left.set("public_key=" + "aa" * 32, "remove=true")
        self.send(self.right, TO_LEFT)

        self.assertEqual([TO_LEFT], self.left.tun.packets[-1:])

    def test_nobody(self) -> None:
        """The sender of a packet for nobody, or for one of unknown endpoint, is told by ICMP."""
        self.send(self.left, packet("10.0.0.1", "10.9.9.9"))
        self.left.set("public_key=" + "aa" * 32, "allowed_ip=10.8.0.0/16")
        self.send(self.left, packet("10.0.0.1", "10.8.9.9"))

        self.assertEqual(
            [packed("10.9.9.9"), packed("10.8.9.9")],
            [answer[12:16] for answer in self.left.tun.packets],
        )
        self.assertEqual([(1, 3, 1)] * 2, [(a[9], a[20], a[21]) for a in self.left.tun.packets])

    def test_link_local_and_multicast(self) -> None:
        """What is for the link alone passes, as with any WireGuard: the link is the tunnel."""
        both = "allowed_ip=::/0"
        self.left.set(self.peer(self.left, self.right), both)
        self.right.set(self.peer(self.right, self.left), both)
        hello = packet("fe80::1", "ff02::5", b"hello")
        self.send(self.left, hello)

        self.assertEqual([hello], self.right.tun.packets)

    def test_padding(self) -> None:
        """Packets are padded to 16 bytes, but not beyond the interface's MTU."""
        self.send(self.left, TO_RIGHT)
        for mtu, size, sealed in (1420, 1410, 1420), (1300, 1299, 1300), (9000, 1410, 1424):
            self.left.up(mtu)
            self.left.port.sent.clear()
            self.send(self.left, packet("10.0.0.1", "10.0.0.2", bytes(size - 20)))
            self.assertEqual(sealed + 32, len(self.left.port.sent[0][0]))

    def test_mtu_of_a_later_peer(self) -> None:
        """The MTU holds for peers that come later, too."""
        self.left.up(1300)
        self.left.set("public_key=" + "aa" * 32)

        self.assertEqual({1300}, {p.mtu for p in self.left.device.wireguard.peers.values()})


class ChangeTests(DeviceCase):
    """Changes while packets flow."""

    def test_new_private_key(self) -> None:
        """A replaced key ends the session, and the next packet begins one with the new key."""
        self.send(self.left, TO_RIGHT)
        self.left.set("private_key=" + "55" * 32)
        new = self.left.device.own_public
        self.right.set(
            self.peer(self.right, self.left),
            "remove=true",
            f"public_key={new.hex()}",
            "allowed_ip=10.0.0.1/32",
        )
        self.net.run(0.1)
        self.send(self.left, TO_RIGHT)

        self.assertEqual([TO_RIGHT] * 2, self.right.tun.packets)

    def test_no_private_key(self) -> None:
        """Without a key nothing is sent, and nobody is answered."""
        self.left.set(f"private_key={ZERO}")
        self.send(self.left, TO_RIGHT)
        self.send(self.right, TO_LEFT)

        self.assertEqual([], self.kinds(self.left))
        self.assertEqual([INITIATION], self.kinds(self.right))

    def test_moved_endpoint(self) -> None:
        """A peer is told of where it was heard from last, not of where it was said to be."""
        self.left.set(self.peer(self.left, self.right), "endpoint=[::ffff:192.0.2.2]:51820")
        self.assertEqual(["[::ffff:192.0.2.2]:51820"], self.left.told("endpoint"))
        self.send(self.left, TO_RIGHT)
        self.assertEqual(["[::ffff:192.0.2.2]:51820"], self.left.told("endpoint"))
        self.right.set("listen_port=7777")
        self.send(self.right, TO_LEFT)

        self.assertEqual(["192.0.2.2:7777"], self.left.told("endpoint"))

    def test_source_forgotten(self) -> None:
        """With a new port or mark the kernel may choose the source address anew."""
        (peer,) = self.left.device.wireguard.peers.values()
        for line in "listen_port=1", "fwmark=1":
            peer.endpoint = Path(packed("192.0.2.2"), 51820, 0, packed("192.0.2.1"), 3)
            self.left.set(line)
            self.assertEqual(Path(packed("192.0.2.2"), 51820), peer.endpoint, line)

    def test_keepalive_switched_on(self) -> None:
        """A keepalive switched on is sent at once, also if the endpoint is named after it."""
        self.left.set(self.peer(self.left, self.right), "remove=true")
        self.left.set(
            self.peer(self.left, self.right),
            "persistent_keepalive_interval=1",
            "endpoint=192.0.2.2:51820",
        )
        self.net.settle()
        self.assertEqual([INITIATION, DATA], self.kinds(self.left))
        self.net.run(5)
        self.assertEqual([DATA] * 5, self.kinds(self.left))
        self.left.set(self.peer(self.left, self.right), "persistent_keepalive_interval=0")
        self.net.run(30)

        self.assertEqual([], self.kinds(self.left))

    def test_silence(self) -> None:
        """Two idle devices say nothing, and nothing wakes them."""
        self.send(self.left, TO_RIGHT)
        self.net.run(600)
        self.kinds(self.left)
        self.kinds(self.right)
        self.net.run(100)

        self.assertEqual([], self.kinds(self.left) + self.kinds(self.right))
        self.assertEqual([], self.net.clock.getDelayedCalls())

    def test_removed_peer(self) -> None:
        """A removed peer is neither sent to nor answered, and leaves no timer."""
        self.send(self.left, TO_RIGHT)
        self.kinds(self.left)
        self.left.set("replace_peers=true")
        self.send(self.left, TO_RIGHT)
        self.send(self.right, TO_LEFT)
        self.net.run(20)

        self.assertEqual([], self.kinds(self.left))


class LinkTests(DeviceCase):
    """The device follows its interface."""

    def test_down(self) -> None:
        """Down: no socket, nothing sent, no keys; up again: as if nothing had been."""
        self.left.set(self.peer(self.left, self.right), "persistent_keepalive_interval=1")
        self.send(self.left, TO_RIGHT)
        self.left.down()
        self.kinds(self.left)
        (peer,) = self.left.device.wireguard.peers.values()
        self.assertEqual((0, 0), (self.left.port.port, peer.keypairs))
        self.net.run(30)
        self.assertEqual([], self.kinds(self.left))
        self.left.up()
        self.net.settle()

        self.assertEqual(51820, self.left.port.port)
        self.assertEqual([INITIATION, DATA], self.kinds(self.left))

    def test_configured_while_down(self) -> None:
        """What is configured while down sends nothing until up."""
        self.left.down()
        self.kinds(self.left)
        self.left.set("replace_peers=true")
        self.left.set(
            self.peer(self.left, self.right),
            "endpoint=192.0.2.2:51820",
            "persistent_keepalive_interval=5",
        )
        self.net.run(20)
        self.assertEqual([], self.kinds(self.left))
        self.left.up()

        self.assertEqual([INITIATION], self.kinds(self.left))

    def test_told_twice(self) -> None:
        """News that are none change nothing."""
        self.send(self.left, TO_RIGHT)
        self.left.up()
        self.send(self.left, TO_RIGHT)
        self.left.down()
        self.left.down()

        self.assertEqual([TO_RIGHT] * 2, self.right.tun.packets)

    def test_closed(self) -> None:
        """A closed device has no key, no peer, no socket and no timer."""
        self.left.set(self.peer(self.left, self.right), "persistent_keepalive_interval=1")
        self.send(self.left, TO_RIGHT)
        self.right.device.close()
        self.left.device.close()

        self.assertEqual(["listen_port=51820"], self.left.get())
        self.assertEqual([], [call for call in self.net.clock.getDelayedCalls() if call.active()])


class LoopTests(DeviceCase):
    """Routes that lead a tunnel's datagrams back into it."""

    def setUp(self) -> None:
        super().setUp()
        self.left.set(self.peer(self.left, self.right), "allowed_ip=0.0.0.0/0", "allowed_ip=::/0")
        self.send(self.left, TO_RIGHT)
        self.sealed, _, _ = self.left.port.sent[-1]
        self.left.port.sent.clear()

    def wrapped(self, datagram: bytes) -> list[bytes]:
        udp = bytes(8) + datagram
        return [packet("192.0.2.1", "192.0.2.2", udp), packet("fe80::1", "fe80::2", udp)]

    def test_own(self) -> None:
        """What was sealed for a peer is not sealed for it again, whichever IP carries it."""
        self.send(self.left, *self.wrapped(self.sealed))

        self.assertEqual([], self.kinds(self.left))
        self.assertEqual(2, self.left.counters.dropped[LoopDrop.LOOP])

    def test_somebody_elses(self) -> None:
        """Another tunnel, between whom ever, passes, and so does what only looks like one."""
        other = self.sealed[:4] + bytes([self.sealed[4] ^ 1]) + self.sealed[5:]
        self.send(self.left, *self.wrapped(other), *self.wrapped(other[:6]), *self.wrapped(b""))

        self.assertEqual([DATA] * 6, self.kinds(self.left))

    def test_through_another_peer(self) -> None:
        """A peer that is reached through another one is no loop."""
        self.left.set("public_key=" + "aa" * 32, "allowed_ip=192.0.2.2/32", "endpoint=10.0.0.2:1")
        self.send(self.left, self.wrapped(self.sealed)[0])

        self.assertEqual([INITIATION], self.kinds(self.left))
        self.assertEqual(0, self.left.counters.dropped[LoopDrop.LOOP])

    def test_nobodys(self) -> None:
        """For nobody, and for a peer without a key, nothing changes."""
        self.left.set("replace_peers=true")
        self.send(self.left, *self.wrapped(self.sealed))
        self.left.set("public_key=" + "aa" * 32, "allowed_ip=::/0", "endpoint=10.0.0.2:1")
        self.send(self.left, *self.wrapped(self.sealed))

        self.assertEqual([INITIATION], self.kinds(self.left))
        self.assertEqual(0, self.left.counters.dropped[LoopDrop.LOOP])


class BugTests(DeviceCase):
    """A bug in one place does not stop the rest."""

    def test_timer(self) -> None:
        """After a timer that fails the others go on."""
        self.left.set(self.peer(self.left, self.right), "persistent_keepalive_interval=1")
        self.net.settle()
        self.kinds(self.left)
        wireguard = self.left.device.wireguard
        tick = wireguard.tick

        def fail_once(now: float) -> None:
            wireguard.tick = tick  # type: ignore[method-assign]
            tick(now)
            raise RuntimeError

        wireguard.tick = fail_once  # type: ignore[method-assign]
        self.net.run(3)

        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual([DATA] * 3, self.kinds(self.left))

    def test_handshake(self) -> None:
        """After a handshake that fails the next one is worked on."""
        wireguard = self.right.device.wireguard
        work = wireguard.work

        def fail_once(now: float) -> bool:
            wireguard.work = work  # type: ignore[method-assign]
            raise RuntimeError

        wireguard.work = fail_once  # type: ignore[method-assign]
        self.send(self.left, TO_RIGHT)

        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual([TO_RIGHT], self.right.tun.packets)
