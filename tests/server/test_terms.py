"""What clients are offered, and the link they are given."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from twisted.logger import capturedLogs

from pyvpn.config import Endpoint, ServerConfig, load_server
from pyvpn.server.terms import Terms, link_of, offered, own_interface, pools, tunnel_networks
from pyvpn.tunnel.leases import Lease
from pyvpn.wire.messages import RegisterAnswer
from tests.configfile import PIN, ConfigFileTestCase
from tests.test_config_server import many_networks
from tests.tunnel.packets import packed

OWN = tuple(
    map(ip_network, ("192.168.77.0/24", "10.0.0.0/8", "182.1.1.0/25", "fd77::/64", "fd70::/16"))
)


class TermsCase(ConfigFileTestCase):
    """Configurations."""

    def config(self, text: str = "") -> ServerConfig:
        """What a file means."""
        return load_server(self.write(text))

    def offer(self, text: str = "") -> Terms:
        """What it offers on a host with the networks OWN."""
        return offered(self.config(text), OWN)

    def spelled(self, values: tuple[Any, ...]) -> list[str]:
        return [str(value) for value in values]


class OfferedTests(TermsCase):
    """From the file and the host to the terms."""

    def test_automatic_routes(self) -> None:
        """Without a list it is the host's own private networks, the tunnel's left out."""
        self.assertEqual(
            ["192.168.77.0/24", "182.1.1.0/25", "fd77::/64"], self.spelled(self.offer().routes)
        )

    def test_plain_network(self) -> None:
        """The plain clients' network is left out once their port is open."""
        terms = self.offer("[plain]\ntcp_listen = 51005\nbypass = 192.168.77.0/24\n")
        self.assertNotIn("182.1.1.0/25", self.spelled(terms.routes))

    def test_one_family(self) -> None:
        """Only networks of a family that the tunnel has."""
        self.assertEqual(
            ["fd77::/64"], self.spelled(self.offer("[tunnel]\nnetwork4 = none\n").routes)
        )
        terms = self.offer("[tunnel]\nnetwork6 = none\n")
        self.assertEqual(["192.168.77.0/24", "182.1.1.0/25"], self.spelled(terms.routes))
        self.assertEqual(["10.73.0.1/24"], self.spelled(terms.interfaces))

    def test_listed(self) -> None:
        """A list is taken as it is; none is none."""
        listed = self.offer("[tunnel]\nroutes = 10.9.0.0/16, 10.73.0.0/24\n")
        self.assertEqual(["10.9.0.0/16", "10.73.0.0/24"], self.spelled(listed.routes))
        self.assertEqual((), self.offer("[tunnel]\nroutes = none\n").routes)

    def test_most_routes(self) -> None:
        """As many routes and name servers as may be listed fit into one answer."""
        dns = ", ".join(f"fd00:1111:2222:3333:4444:5555:6666:{n + 4096:x}" for n in range(8))
        terms = self.offer(f"[tunnel]\nroutes = {many_networks(256)}\ndns = {dns}\n")
        data = terms.answer(Lease(1, 1, packed("10.73.0.2"), None, None)).to_bytes()

        self.assertEqual(256, len(RegisterAnswer.from_bytes(data).routes))
        self.assertLess(len(terms.settings().to_bytes()), len(data))

    def test_too_many_own_networks(self) -> None:
        """A host with more networks than clients take offers the first of them, and says so."""
        own = tuple(ip_network(f"10.{n}.0.0/24") for n in range(100, 256))
        own += tuple(ip_network(f"172.16.{n}.0/24") for n in range(200))
        with capturedLogs() as logs:
            terms = offered(self.config(), own)

        self.assertEqual(own[:256], terms.routes)
        self.assertEqual([(356, 256)], [(event["n"], event["most"]) for event in logs])
        terms.answer(Lease(1, 1, packed("10.73.0.2"), None, None)).to_bytes()

    def test_networks(self) -> None:
        """Pools, and with an open plain port its network too."""
        config = self.config()
        self.assertEqual(["10.73.0.0/24", "fd70:7976:706e::/64"], self.spelled(pools(config)))
        self.assertEqual(pools(config), tunnel_networks(config))
        config = self.config("[plain]\ntcp_listen = 51005\nbypass = 192.168.77.0/24\n")
        self.assertEqual("182.1.1.0/24", str(tunnel_networks(config)[-1]))
        udp = "udp_listen = 2003\nudp_password = horse\nbypass = 192.168.77.0/24\n"
        config = self.config(f"[plain]\n{udp}")
        self.assertEqual("10.0.0.0/24", str(tunnel_networks(config)[-1]))
        config = self.config(f"[plain]\ntcp_listen = 51005\n{udp}")
        both = self.spelled(tunnel_networks(config)[-2:])
        self.assertEqual(["182.1.1.0/24", "10.0.0.0/24"], both)

    def test_own_interface(self) -> None:
        """The server has the first address of each."""
        for network, mine in (
            ("10.73.0.0/24", "10.73.0.1/24"),
            ("10.73.0.252/30", "10.73.0.253/30"),
            ("fd70::/64", "fd70::1/64"),
        ):
            self.assertEqual(ip_interface(mine), own_interface(ip_network(network)))

    def test_silence(self) -> None:
        """A connection is given up within 40 s at the usual heartbeat, and before the session."""
        self.assertEqual(35.0, self.offer().silence)
        self.assertEqual(21.0, self.offer("[tunnel]\nheartbeat = 10s\nexpiry = 21s\n").silence)


class SaidTests(TermsCase):
    """What is written into the messages."""

    def test_answer(self) -> None:
        """Both families, with the pools' prefix lengths."""
        answer = self.offer().answer(Lease(1, 1, packed("10.73.0.9"), packed("fd70::9"), None))
        self.assertEqual(("10.73.0.9/24", "fd70::9/64"), (answer.address4, answer.address6))
        self.assertEqual(("10.73.0.1", "fd70:7976:706e::1"), (answer.server4, answer.server6))
        self.assertEqual((True, "ok"), (answer.success, answer.code))

    def test_one_family(self) -> None:
        """A family without an address has no server either."""
        answer = self.offer().answer(Lease(1, 1, packed("10.73.0.9"), None, None))
        self.assertEqual(("", ""), (answer.address6, answer.server6))

    def test_settings(self) -> None:
        """The settings say what the answer said, without the lease."""
        terms = self.offer("[tunnel]\ndns = 192.168.77.53, fd77::53\n")
        settings, answer = terms.settings(), terms.answer(Lease(1, 1, None, None, None))
        self.assertEqual(("192.168.77.53", "fd77::53"), settings.dns)
        for name in ("routes", "dns", "mtu", "heartbeat", "expiry"):
            self.assertEqual(getattr(answer, name), getattr(settings, name))

    def test_reachable(self) -> None:
        """Pushed networks and the server's own addresses, nothing else of the pools."""
        table = self.offer().reachable()
        for address in ("192.168.77.1", "fd77::1", "10.73.0.1", "fd70:7976:706e::1"):
            self.assertIn(packed(address), table)
        for address in ("10.73.0.2", "192.168.78.1", "8.8.8.8", "fd70:7976:706e::2", "::1"):
            self.assertNotIn(packed(address), table)


class LinkTests(TermsCase):
    """The one string a client needs."""

    def link(self, text: str = "", source: str | None = "198.18.2.2", user: str = "") -> str:
        return link_of(self.config(text), PIN, source, user)

    def test_own_address(self) -> None:
        """Without any hint it is the host's own address and the port it listens on."""
        self.assertEqual(f"pyvpn://198.18.2.2:51820?pin={PIN}", self.link())
        self.assertEqual(
            f"pyvpn://anna@[2001:db8::1]:443?pin={PIN}",
            self.link("[server]\nlisten = 443\n", "2001:db8::1", "anna"),
        )

    def test_unknown_address(self) -> None:
        """If nobody knows it, a word stands where a person must put it."""
        self.assertIn("ADDRESS-OF-THIS-SERVER:51820", self.link(source=None))

    def test_listening_address(self) -> None:
        """An address it listens on is where it is."""
        self.assertEqual(
            f"pyvpn://192.0.2.1:443?pin={PIN}",
            self.link("[server]\nlisten = 192.0.2.1:443, 444\n"),
        )

    def test_public_endpoints(self) -> None:
        """What the operator says is best, in that order."""
        text = "[server]\npublic_endpoints = vpn.example.org, [2001:db8::5]:443\n"
        self.assertEqual(
            f"pyvpn://vpn.example.org:51820,[2001:db8::5]:443?pin={PIN}", self.link(text)
        )

    def test_taken_by_a_client(self) -> None:
        """A client's file takes every such link."""
        from pyvpn.config import load_client

        for text in ("", "[server]\npublic_endpoints = vpn.example.org, [2001:db8::5]:443\n"):
            link = self.link(text, user="anna")
            config = load_client(self.write(f"[client]\nserver = {link}\n"))
            self.assertEqual((PIN, "anna"), (config.pin, config.user))
            self.assertIsInstance(config.server.endpoints[0], Endpoint)
        self.assertEqual(ip_address("2001:db8::5"), ip_address(config.server.endpoints[1].host))
