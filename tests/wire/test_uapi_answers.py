"""The configuration protocol: what a client is told."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.uapi import DeviceView, PeerView, answer_to_get, answer_with
from pyvpn.wire.uapi_operations import Errno

KEY = bytes(range(32))

PEERS = st.builds(
    PeerView,
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    st.just("") | st.just("[fe80::1%\xff]:1"),
    st.floats(0, 2e9),
    st.integers(0, 2**64),
    st.integers(0, 2**64),
    st.integers(0, 65535),
    st.lists(st.just((bytes(4), 0)) | st.just((bytes(16), 128)), max_size=3),
)


class AnswerTests(SynchronousTestCase):
    """What a client is told."""

    def test_set(self) -> None:
        """The answer to a set is its error number."""
        self.assertEqual(b"errno=0\n\n", answer_with(Errno.OK))
        self.assertEqual(b"errno=-98\n\n", answer_with(Errno.PORT_IN_USE))

    def test_nothing_configured(self) -> None:
        """A fresh device has nothing to tell."""
        self.assertEqual([b"errno=0\n\n"], list(answer_to_get(DeviceView(b"", 0, 0, ()))))

    def test_everything(self) -> None:
        """Each fact has its line, in wireguard-go's order."""
        peer = PeerView(
            KEY,
            bytes(32),
            "192.0.2.1:1",
            1700000000.5,
            3,
            4,
            25,
            [(bytes([10, 0, 0, 0]), 8), (bytes(16), 0)],
        )
        answer = b"".join(answer_to_get(DeviceView(KEY, 51820, 17, [peer])))

        self.assertEqual(
            [
                "private_key=" + KEY.hex(),
                "listen_port=51820",
                "fwmark=17",
                "public_key=" + KEY.hex(),
                "preshared_key=" + bytes(32).hex(),
                "protocol_version=1",
                "endpoint=192.0.2.1:1",
                "last_handshake_time_sec=1700000000",
                "last_handshake_time_nsec=500000000",
                "tx_bytes=3",
                "rx_bytes=4",
                "persistent_keepalive_interval=25",
                "allowed_ip=10.0.0.0/8",
                "allowed_ip=::/0",
                "errno=0",
                "",
                "",
            ],
            answer.decode().split("\n"),
        )

    def test_in_pieces(self) -> None:
        """A long answer comes in pieces, and peers are asked about only when it is their turn."""
        asked = []

        def peers() -> Iterator[PeerView]:
            for number in range(300):
                asked.append(number)
                networks = [(number.to_bytes(4), 32)] * 20
                yield PeerView(KEY, KEY, "", 0.0, 0, 0, 0, networks)

        pieces = answer_to_get(DeviceView(b"", 0, 0, peers()))
        self.assertLess(len(next(pieces)), 65536)
        self.assertLess(len(asked), 100)
        self.assertEqual(b"errno=0\n\n", list(pieces)[-1][-9:])

    @given(st.lists(PEERS, max_size=3))
    def test_no_fact_breaks_the_lines(self, peers: list[PeerView]) -> None:
        """Every line of an answer is key and value, the last two are errno and empty."""
        lines = b"".join(answer_to_get(DeviceView(KEY, 1, 1, peers))).split(b"\n")

        self.assertEqual([b"errno=0", b"", b""], lines[-3:])
        self.assertTrue(all(b"=" in line for line in lines[:-2]))
