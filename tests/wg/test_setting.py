"""What ``wg`` says to a device, and what the device then tells of itself.

The same claims are put to wireguard-go by tests/live/test_wg_verdicts.py.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.x25519 import public_of
from pyvpn.wg import device as device_module
from pyvpn.wire.uapi_operations import AllowedIp, SelectPeer, SetKeepalive
from tests.wg.devices import Host, Net

A, B = "aa" * 32, "bb" * 32
ZERO = "00" * 32
INVALID, PORT_IN_USE = -22, -98


class SettingCase(SynchronousTestCase):
    """One host, down."""

    def setUp(self) -> None:
        self.net = Net()
        self.host = Host(self.net, "192.0.2.1", 1)

    def set(self, *lines: str) -> None:
        self.assertEqual(0, self.host.set(*lines))

    def told(self, key: str) -> list[str]:
        return self.host.told(key)


class DeviceLineTests(SettingCase):
    """Lines about the device itself."""

    def test_fresh(self) -> None:
        """A fresh device tells nothing."""
        self.assertEqual([], self.host.get())

    def test_private_key(self) -> None:
        """A private key is shown clamped, can be replaced, and is cleared by zeros."""
        self.set("private_key=" + "ff" * 32)
        self.assertEqual(["f8" + "ff" * 30 + "7f"], self.told("private_key"))
        self.set(f"private_key={A}")
        self.assertEqual(["a8" + "aa" * 30 + "6a"], self.told("private_key"))
        self.set(f"private_key={ZERO}")
        self.assertEqual([], self.told("private_key"))

    def test_own_key_as_peer(self) -> None:
        """A peer with our own key vanishes, and is not made again while the key is ours."""
        own = self.host.public.hex()
        self.set(f"public_key={own}", f"public_key={A}")
        self.set(f"private_key={self.host.private.hex()}")
        self.assertEqual([A], self.told("public_key"))
        self.set(f"public_key={own}", "allowed_ip=10.0.0.0/8", "remove=true", "update_only=true")
        self.assertEqual(([A], []), (self.told("public_key"), self.told("allowed_ip")))
        self.assertEqual(INVALID, self.host.set(f"public_key={own}", "allowed_ip=10.0.0.0"))
        self.set(f"private_key={B}", f"public_key={own}")
        self.assertEqual({A, own}, set(self.told("public_key")))

    def test_no_own_key(self) -> None:
        """Without a key of ours the zeros stand for it, then what the curve makes of them."""
        self.set(f"public_key={ZERO}")
        self.assertEqual([], self.told("public_key"))
        self.set(f"private_key={A}", f"private_key={ZERO}")
        self.set(f"public_key={ZERO}", f"public_key={public_of(bytes(32)).hex()}")
        self.assertEqual([ZERO], self.told("public_key"))

    def test_the_same_key(self) -> None:
        """The key that we have already changes nothing, so sessions go on."""
        self.set(f"private_key={A}")
        before = self.host.device.wireguard.static
        self.set("private_key=" + "ab" + A[2:])  # the same, as far as the curve sees

        self.assertIs(before, self.host.device.wireguard.static)

    def test_listen_port(self) -> None:
        """A port is noted while down, taken when up, and exchanged live."""
        self.set("listen_port=51820")
        self.assertEqual((["51820"], 0), (self.told("listen_port"), self.host.port.port))
        self.host.up()
        self.assertEqual(51820, self.host.port.port)
        self.set("listen_port=51821")
        self.assertEqual((["51821"], 51821), (self.told("listen_port"), self.host.port.port))
        self.host.down()
        self.assertEqual((["51821"], 0), (self.told("listen_port"), self.host.port.port))

    def test_any_port(self) -> None:
        """0 is any port: chosen when up, shown, kept when down, and chosen anew when asked."""
        self.host.up()
        self.assertEqual(["40001"], self.told("listen_port"))
        self.host.down()
        self.host.up()
        self.assertEqual(["40001"], self.told("listen_port"))
        self.set("listen_port=0")
        self.assertEqual(["40002"], self.told("listen_port"))

    def test_port_in_use(self) -> None:
        """A taken port is refused, and the one we have stays, as with the kernel's WireGuard."""
        self.host.port.taken.add(7)
        self.host.up()
        self.assertEqual(PORT_IN_USE, self.host.set("listen_port=7"))
        self.assertEqual((["40001"], 40001), (self.told("listen_port"), self.host.port.port))

    def test_port_in_use_at_start(self) -> None:
        """A port that is taken when the interface comes up: the next one set opens it."""
        self.host.port.taken.add(7)
        self.set("listen_port=7")
        self.host.up()
        self.assertFalse(self.host.device.is_up)
        self.set("listen_port=8")
        self.assertTrue(self.host.device.is_up)
        self.assertEqual(8, self.host.port.port)

    def test_fwmark(self) -> None:
        """A mark is set live, is not shown when it is 0, and may be refused."""
        self.set("fwmark=4294967295")
        self.assertEqual((["4294967295"], 2**32 - 1), (self.told("fwmark"), self.host.port.mark))
        self.set("fwmark=0")
        self.assertEqual(([], 0), (self.told("fwmark"), self.host.port.mark))
        self.host.port.may_mark = False
        self.assertEqual(PORT_IN_USE, self.host.set("fwmark=1"))
        self.assertEqual([], self.told("fwmark"))

    def test_replace_peers(self) -> None:
        """All peers go, and those named afterwards come, without what they had."""
        self.set(f"public_key={A}", "allowed_ip=10.0.0.0/8", f"public_key={B}")
        self.set("replace_peers=true", f"public_key={A}")

        self.assertEqual(([A], []), (self.told("public_key"), self.told("allowed_ip")))


class PeerLineTests(SettingCase):
    """Lines about peers."""

    def test_everything(self) -> None:
        """A peer is told with all that it was given."""
        self.set(
            f"public_key={A}",
            f"preshared_key={B}",
            "endpoint=[2001:db8::1]:51820",
            "persistent_keepalive_interval=25",
            "allowed_ip=10.1.2.3/8",
            "allowed_ip=::/0",
            "protocol_version=1",
        )
        self.assertEqual(
            [
                f"public_key={A}",
                f"preshared_key={B}",
                "protocol_version=1",
                "endpoint=[2001:db8::1]:51820",
                "last_handshake_time_sec=0",
                "last_handshake_time_nsec=0",
                "tx_bytes=0",
                "rx_bytes=0",
                "persistent_keepalive_interval=25",
                "allowed_ip=10.0.0.0/8",
                "allowed_ip=::/0",
            ],
            self.host.get(),
        )

    def test_update_only(self) -> None:
        """A peer that is not there is not made, and its lines are read all the same."""
        self.set(f"public_key={A}", "update_only=true", "allowed_ip=10.0.0.0/8")
        self.assertEqual([], self.told("public_key"))
        self.set(f"public_key={A}")
        self.set(f"public_key={A}", "update_only=true", "allowed_ip=10.0.0.0/8")
        self.assertEqual(["10.0.0.0/8"], self.told("allowed_ip"))
        self.assertEqual(
            INVALID, self.host.set(f"public_key={B}", "update_only=true", "endpoint=x")
        )

    def test_remove(self) -> None:
        """A removed peer is gone with its networks; what is said of it then is only read."""
        self.set(f"public_key={A}", "allowed_ip=10.0.0.0/8")
        self.set(
            f"public_key={A}",
            "remove=true",
            "allowed_ip=11.0.0.0/8",
            f"preshared_key={B}",
            "endpoint=192.0.2.9:1",
            "persistent_keepalive_interval=1",
            "replace_allowed_ips=true",
            "remove=true",
        )
        self.assertEqual([], self.host.get())
        self.assertEqual(INVALID, self.host.set(f"public_key={A}", "remove=true", "allowed_ip=x"))
        self.assertEqual([], self.host.get())

    def test_removed_by_another_client(self) -> None:
        """Two requests at once do not trip over each other."""
        first = self.host.device.begin_setting()
        first.apply(SelectPeer(bytes.fromhex(A)))
        self.set(f"public_key={A}", "remove=true")
        first.apply(AllowedIp(bytes(4), 0, False))
        first.apply(SetKeepalive(1))
        first.finish()

        self.assertEqual([], self.host.get())

    def test_preshared_key(self) -> None:
        """A preshared key is cleared by zeros."""
        self.set(f"public_key={A}", f"preshared_key={B}")
        self.set(f"public_key={A}", f"preshared_key={ZERO}")

        self.assertEqual([ZERO], self.told("preshared_key"))

    def test_networks_move(self) -> None:
        """A network belongs to the peer that was given it last, and to no other."""
        self.set(f"public_key={A}", "allowed_ip=10.0.0.0/8", "allowed_ip=10.1.0.0/16")
        self.set(f"public_key={B}", "allowed_ip=10.1.0.0/16")
        lines = self.host.get()
        of_b = lines[lines.index(f"public_key={B}") :]

        self.assertIn("allowed_ip=10.1.0.0/16", of_b)
        self.assertEqual(["10.0.0.0/8", "10.1.0.0/16"], sorted(self.told("allowed_ip")))

    def test_networks_taken(self) -> None:
        """A network is taken by a minus from the peer that has it, and from no other."""
        self.set(f"public_key={A}", "allowed_ip=10.0.0.0/8", "allowed_ip=::/0")
        self.set(f"public_key={B}", "allowed_ip=-10.0.0.0/8", "allowed_ip=-11.0.0.0/8")
        self.assertEqual(["10.0.0.0/8", "::/0"], self.told("allowed_ip"))
        self.set(f"public_key={A}", "allowed_ip=-10.9.9.9/8", "allowed_ip=-::/1")
        self.assertEqual(["::/0"], self.told("allowed_ip"))

    def test_replace_allowed_ips(self) -> None:
        """All networks of the peer go, those of others stay."""
        self.set(f"public_key={A}", "allowed_ip=10.0.0.0/8", f"public_key={B}", "allowed_ip=::/0")
        self.set(f"public_key={A}", "replace_allowed_ips=true", "allowed_ip=12.0.0.0/8")

        self.assertEqual({"12.0.0.0/8", "::/0"}, set(self.told("allowed_ip")))

    def test_mapped_endpoint(self) -> None:
        """An IPv4 address in IPv6's clothes is shown as written, and reached by IPv4."""
        self.set(f"public_key={A}", "endpoint=[::ffff:192.0.2.9]:1")
        self.assertEqual(["[::ffff:192.0.2.9]:1"], self.told("endpoint"))
        peer = self.host.device.wireguard.peers[bytes.fromhex(A)]
        assert peer.endpoint is not None

        self.assertEqual(bytes([192, 0, 2, 9]), peer.endpoint.host)

    def test_zone(self) -> None:
        """A zone is shown as written, whether or not there is such an interface."""
        for zone, scope in ("lo", 1), ("7", 7), ("nowhere", 0), ("\0", 0), ("9" * 30, 0):
            self.set(f"public_key={A}", f"endpoint=[fe80::1%{zone}]:1")
            self.assertEqual([f"[fe80::1%{zone}]:1"], self.told("endpoint"))
            peer = self.host.device.wireguard.peers[bytes.fromhex(A)]
            assert peer.endpoint is not None
            self.assertEqual(scope, peer.endpoint.scope)

    def test_too_many_peers(self) -> None:
        """A bound on peers is an error like wireguard-go's."""
        self.patch(device_module, "MOST_PEERS", 1)
        self.set(f"public_key={A}")
        self.assertEqual(INVALID, self.host.set(f"public_key={B}"))
        self.set(f"public_key={A}", "allowed_ip=::/0")

    def test_many_networks(self) -> None:
        """130,000 networks are taken and told."""
        networks = [
            f"allowed_ip={text}"
            for a in range(1, 256)
            for b in range(256)
            for text in (f"{a}.{b}.0.0/16", f"{a:x}:{b + 1:x}::/128")
        ]
        self.set(f"public_key={A}", *networks)

        self.assertEqual(sorted(networks), sorted(self.host.get()[8:]))

    def test_what_came_before_an_error(self) -> None:
        """It stays; what follows is not done."""
        self.assertEqual(
            INVALID, self.host.set("fwmark=1", f"public_key={A}", "x=1", f"public_key={B}")
        )
        self.assertEqual((["1"], [A]), (self.told("fwmark"), self.told("public_key")))
