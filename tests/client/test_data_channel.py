"""What a server says of its data channel, true or not."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path as File

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.data_channel import _token_of
from pyvpn.client.outside import _stamp_on_file
from pyvpn.client.places import MOST_PLACES, places_of, ports_of
from pyvpn.crypto.tai64n import tai64n
from pyvpn.net.private_files import write_private
from pyvpn.wire.datagram import Path
from pyvpn.wire.messages import Code, RegisterAnswer

SERVER = ip_address("203.0.113.9")


def offer(*endpoints: str, token: str = "") -> RegisterAnswer:
    return RegisterAnswer(success=True, code=Code.OK, wireguard_endpoints=endpoints, token=token)


class PlacesTests(SynchronousTestCase):
    """Where a client tries."""

    def test_wherever(self) -> None:
        """A port alone is at the connection's address; literal addresses are taken, in order."""
        said = offer("198.51.100.2:443", ":51820", "[2001:db8::7]:51820", "vpn.example.org:51820")
        self.assertEqual(
            [
                Path(ip_address("198.51.100.2").packed, 443),
                Path(SERVER.packed, 51820),
                Path(ip_address("2001:db8::7").packed, 51820),
            ],
            places_of(said, SERVER),
        )
        self.assertEqual([51820], ports_of(said))

    def test_nonsense(self) -> None:
        """What cannot be read is as good as not said."""
        wrong = ("", ":", ":0", ":65536", ":-1", "x:y", "[::1]", "a" * 64, ":\u0665", "vpn:51820")
        self.assertEqual([], places_of(offer(*wrong), SERVER))

    def test_behindARelay(self) -> None:
        """Without a known address of the connection a bare port leads nowhere."""
        self.assertEqual([], places_of(offer(":51820"), None))

    def test_many(self) -> None:
        """A server that names thousands of places is believed a few."""
        said = offer(*(f"198.51.100.1:{port}" for port in range(1000, 5000)))
        self.assertEqual(MOST_PLACES, len(places_of(said, SERVER)))

    def test_theSameTwice(self) -> None:
        """Each place is tried once."""
        self.assertEqual(1, len(places_of(offer(":5", "203.0.113.9:5", ":5"), SERVER)))

    @given(st.lists(st.text(max_size=30), max_size=5))
    def test_anything(self, texts: list[str]) -> None:
        """No text raises."""
        places_of(offer(*texts), SERVER)

    def test_token(self) -> None:
        """16 bytes in base64, or as good as none."""
        self.assertEqual(bytes(16), _token_of(offer(token="AAAAAAAAAAAAAAAAAAAAAA==")))
        for wrong in "", "x", "!!!!", "\u00e4":
            self.assertNotEqual(16, len(_token_of(offer(token=wrong))))


class StampTests(SynchronousTestCase):
    """The timestamp that outlives the process."""

    def setUp(self) -> None:
        self.file = File(self.mktemp())

    def test_none(self) -> None:
        """At the first start there is none."""
        self.assertEqual(b"", _stamp_on_file(self.file))

    def test_kept(self) -> None:
        """What was written is the floor of the next process."""
        stamp = tai64n(1_800_000_000.0)
        write_private(self.file, stamp.hex().encode() + b"\n")
        self.assertEqual(stamp, _stamp_on_file(self.file))

    def test_broken(self) -> None:
        """A broken one is begun anew, with a word in the log."""
        for wrong in b"", b"xyz", b"00", b"\xff" * 12, b"ff" * 12:
            write_private(self.file, wrong)
            self.assertEqual(b"", _stamp_on_file(self.file))
