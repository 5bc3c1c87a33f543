"""The router against rules written down one packet at a time."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.icmp import unreachable
from tests.tunnel.office import ANNA4, ANNA6, BOB4, OFFICE4, OFFICE6, PUSHED, Server
from tests.tunnel.packets import packed, packet_between

UNIVERSE4 = [packed(a) for a in (ANNA4, BOB4, "10.73.0.4", OFFICE4, "10.73.0.1", "224.0.0.1")]
UNIVERSE6 = [packed(a) for a in (ANNA6, "fd70::3", OFFICE6, "fd70::1", "ff02::1", "fe80::1")]
pairs = st.tuples(st.sampled_from(UNIVERSE4), st.sampled_from(UNIVERSE4)) | st.tuples(
    st.sampled_from(UNIVERSE6), st.sampled_from(UNIVERSE6)
)
any_packets = st.lists(
    st.builds(lambda p, load: packet_between(p[0], p[1], load), pairs, st.binary(max_size=3))
    | st.binary(max_size=60),
    max_size=12,
)
LOCAL = [ip_network(n) for n in ("224.0.0.0/4", "ff00::/8", "fe80::/10")]


def ends_of(one: bytes) -> tuple[bytes, bytes] | None:
    """The obvious way to read a packet, for packets made here and for junk."""
    for version, start, size, whole in (
        (4, 12, 4, int.from_bytes(one[2:4])),
        (6, 8, 16, 40 + int.from_bytes(one[4:6])),
    ):
        header = (one[0] & 15) * 4 if one and version == 4 else 40
        minimum = 20 if version == 4 else 40
        if one and one[0] >> 4 == version and minimum <= header <= len(one) == whole:
            return one[start : start + size], one[start + size : start + 2 * size]
    return None


class EveryPacketTests(SynchronousTestCase):
    """Any batch, against rules written down one packet at a time."""

    @settings(deadline=None)
    @given(any_packets, st.booleans(), st.booleans())
    def test_from_session(self, batch: list[bytes], open_house: bool, wide: bool) -> None:
        """Exactly the permitted packets come out, in order, and the others are counted."""
        reachable = ("0.0.0.0/0", "::/0") if wide else PUSHED
        server = Server(client_to_client=open_house, reachable=reachable)
        server.from_anna(*batch)

        to_tun, to_bob, dropped = [], [], Counter[str]()
        for one in batch:
            ends = ends_of(one)
            if ends is None:
                dropped["malformed"] += 1
                continue
            source, destination = map(ip_address, ends)
            if str(source) not in (ANNA4, ANNA6):
                dropped["source-not-own"] += 1
            elif any(destination in network for network in LOCAL):
                dropped["multicast-or-link-local"] += 1
            elif str(destination) == BOB4 and open_house:
                to_bob.append(one)
            elif str(destination) != BOB4 and any(
                destination in ip_network(network) for network in reachable
            ):
                to_tun.append(one)
            else:
                dropped["destination-not-permitted"] += 1
        self.assertEqual([to_tun] if to_tun else [], server.tun.batches)
        self.assertEqual([to_bob] if to_bob else [], server.to_bob.batches)
        self.assertEqual([], server.to_anna.batches)
        self.assertEqual(dropped, server.counters.dropped)
        self.assertEqual(dropped, server.anna.drops.dropped)
        self.assertEqual(len(batch), server.anna.packets_in + server.anna.drops.total())
        self.assertEqual(sum(map(len, to_tun + to_bob)), server.anna.bytes_in)

    @settings(deadline=None)
    @given(any_packets)
    def test_from_tun(self, batch: list[bytes]) -> None:
        """Each session gets exactly its packets, in order; the others are counted.

        Who sent to an address that nobody has is told so.
        """
        server = Server()
        server.router.packets_from_tun(batch, 1.0)

        expected: dict[str, list[bytes]] = {"anna": [], "bob": []}
        told: list[bytes] = []
        dropped = Counter[str]()
        for one in batch:
            ends = ends_of(one)
            destination = None if ends is None else ip_address(ends[1])
            if destination is None:
                dropped["malformed"] += 1
            elif any(destination in network for network in LOCAL):
                dropped["multicast-or-link-local"] += 1
            elif str(destination) in (ANNA4, ANNA6):
                expected["anna"].append(one)
            elif str(destination) == BOB4:
                expected["bob"].append(one)
            else:
                dropped["no-session-for-destination"] += 1
                told.append(one)
        self.assertEqual(expected["anna"], server.to_anna.packets)
        self.assertEqual(expected["bob"], server.to_bob.packets)
        self.assertLessEqual(len(server.to_anna.batches), 1)
        answers = [unreachable(one) for one in told]
        self.assertEqual([one for one in answers if one], server.tun.packets)
        self.assertEqual(dropped, server.counters.dropped)
