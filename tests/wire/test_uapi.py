"""The configuration protocol: requests, cut and read."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.wire.uapi import (
    LINE_LIMIT,
    Event,
    Requests,
)
from pyvpn.wire.uapi_operations import (
    AllowedIp,
    Errno,
    Refusal,
    RemovePeer,
    ReplaceAllowedIps,
    ReplacePeers,
    SelectPeer,
    SetEndpoint,
    SetFwmark,
    SetKeepalive,
    SetListenPort,
    SetPresharedKey,
    SetPrivateKey,
    UpdateOnly,
)
from pyvpn.wire.uapi_values import Endpoint

KEY = bytes(range(32))
HEX = KEY.hex().encode()
PEER = b"public_key=" + HEX + b"\n"


def everything(*chunks: bytes, ended: bool = False) -> list[object]:
    """Return what the requests in *chunks* come to, an errno where one was refused."""
    requests, found = Requests(), list[object]()
    for chunk in chunks:
        requests.feed(chunk)
        found += taken(requests)
    if ended:
        requests.end()
        found += taken(requests)
    return found[: found.index(Event.HANG_UP) + 1] if Event.HANG_UP in found else found


def taken(requests: Requests) -> list[object]:
    """Return what there is to take."""
    found = list[object]()
    while not found or found[-1] not in (None, Event.HANG_UP):
        try:
            found.append(requests.take())
        except Refusal as refusal:
            found.append(refusal.errno)
    return found[:-1] if found[-1] is None else found


class GetTests(SynchronousTestCase):
    """Requests to tell."""

    def test_get(self) -> None:
        """A get is its line and an empty one; any number may follow each other."""
        self.assertEqual([Event.GET, Event.GET], everything(b"get=1\n\nget=1\n\n"))

    def test_not_finished(self) -> None:
        """A get without its empty line waits for it, and is no get when none comes."""
        self.assertEqual([], everything(b"get=1\n"))
        self.assertEqual([Event.HANG_UP], everything(b"get=1\n", ended=True))
        self.assertEqual([Event.HANG_UP], everything(b"get=1", ended=True))

    def test_something_between(self) -> None:
        """One wrong byte is refused at once, and the next request may follow it."""
        self.assertEqual([Errno.INVALID], everything(b"get=1\nx"))
        self.assertEqual([Errno.INVALID, Event.GET], everything(b"get=1\nxget=1\n\n"))
        self.assertEqual([Errno.INVALID, Event.HANG_UP], everything(b"get=1\nget=1\n\n"))

    def test_no_request(self) -> None:
        """What is no request ends the connection without an answer."""
        for junk in (
            b"\n",
            b"get=2\n",
            b"get=1\r\n",
            b" get=1\n",
            b"set=1 \n",
            b"GET / HTTP/1.0\n",
        ):
            self.assertEqual([Event.HANG_UP], everything(junk))
        self.assertEqual([Event.HANG_UP], everything(b"x" * (LINE_LIMIT + 1)))
        self.assertEqual([Event.HANG_UP], everything(ended=True))


class SetTests(SynchronousTestCase):
    """Requests to change something."""

    def test_every_line(self) -> None:
        """Each key of the protocol becomes what it means."""
        lines = (
            b"set=1",
            b"private_key=" + HEX,
            b"listen_port=51820",
            b"fwmark=17",
            b"replace_peers=true",
            b"public_key=" + HEX,
            b"update_only=true",
            b"remove=true",
            b"preshared_key=" + HEX,
            b"endpoint=192.0.2.1:51820",
            b"persistent_keepalive_interval=25",
            b"replace_allowed_ips=true",
            b"allowed_ip=10.0.0.0/8",
            b"allowed_ip=-10.0.0.0/8",
            b"protocol_version=1",
            b"",
            b"",
        )
        expected = [
            Event.SET,
            SetPrivateKey(KEY),
            SetListenPort(51820),
            SetFwmark(17),
            ReplacePeers(),
            SelectPeer(KEY),
            UpdateOnly(),
            RemovePeer(),
            SetPresharedKey(KEY),
            SetEndpoint(Endpoint(bytes([192, 0, 2, 1]), 51820)),
            SetKeepalive(25),
            ReplaceAllowedIps(),
            AllowedIp(bytes([10, 0, 0, 0]), 8, False),
            AllowedIp(bytes([10, 0, 0, 0]), 8, True),
            Event.DONE,
        ]
        self.assertEqual(expected, everything(b"\n".join(lines)))

    def test_applied_as_it_comes(self) -> None:
        """A line is told as soon as it is whole, before the request is complete."""
        self.assertEqual(
            [Event.SET, SetFwmark(1)], everything(b"set=1\nfwm", b"ark=1", b"\nfwmark=2")
        )

    def test_the_client_hangs_up(self) -> None:
        """A set without its empty line, or the end of its last one, is complete all the same."""
        self.assertEqual(
            [Event.SET, SetFwmark(1), Event.DONE, Event.HANG_UP],
            everything(b"set=1\nfwmark=1", ended=True),
        )
        self.assertEqual(
            [Event.SET, Event.DONE, Event.HANG_UP], everything(b"set=1\n", ended=True)
        )
        self.assertEqual([Event.HANG_UP], everything(b"set=1", ended=True))

    def test_carriage_return(self) -> None:
        """One at the end of a line is forgiven, also in the empty one; two are not."""
        self.assertEqual(
            [Event.SET, SetFwmark(1), Event.DONE], everything(b"set=1\nfwmark=1\r\n\r\n")
        )
        self.assertEqual([Event.SET, Errno.INVALID], everything(b"set=1\nfwmark=1\r\r\n"))

    def test_no_equals_sign(self) -> None:
        """A line that is no key and value is an error of its own."""
        self.assertEqual([Event.SET, Errno.PROTOCOL], everything(b"set=1\nfwmark\n"))

    def test_refused_lines(self) -> None:
        """Unknown keys, keys out of place and wrong values are refused as invalid."""
        device = (
            b"=",
            b"=1",
            b" fwmark=1",
            b"fwmark =1",
            b"Fwmark=1",
            b"fwmark=0x1",
            b"fwmark=4294967296",
            b"listen_port=65536",
            b"listen_port=-1",
            b"listen_port=",
            b"private_key=",
            b"private_key=" + HEX[:-2],
            b"private_key=" + HEX + b"00",
            b"replace_peers=false",
            b"replace_peers=",
            b"replace_peers=TRUE",
            b"endpoint=192.0.2.1:51820",
            b"public_key=x",
            b"errno=0",
            b"tx_bytes=1",
            b"fwmark\0=1",
            b"fwmark=1\0",
            b"\xff\xfe=1",
        )
        for line in device:
            self.assertEqual(
                [Event.SET, Errno.INVALID], everything(b"set=1\n" + line + b"\n"), line
            )
        peer = (
            b"private_key=" + HEX,
            b"fwmark=1",
            b"replace_peers=true",
            b"update_only=false",
            b"remove=1",
            b"preshared_key=" + HEX[1:],
            b"endpoint=example.org:1",
            b"persistent_keepalive_interval=65536",
            b"persistent_keepalive_interval=off",
            b"replace_allowed_ips=yes",
            b"allowed_ip=10.0.0.0",
            b"allowed_ip=--10.0.0.0/8",
            b"allowed_ip=+10.0.0.0/8",
            b"protocol_version=2",
            b"protocol_version=01",
            b"last_handshake_time_sec=1",
        )
        for line in peer:
            self.assertEqual(
                [Event.SET, SelectPeer(KEY), Errno.INVALID],
                everything(b"set=1\n" + PEER + line + b"\n"),
                line,
            )

    def test_each_request_begins_with_the_device(self) -> None:
        """Whose lines follow is not remembered from one request to the next."""
        self.assertEqual(
            [Event.SET, SelectPeer(KEY), Event.DONE, Event.SET, SetFwmark(1)],
            everything(b"set=1\n" + PEER + b"\nset=1\nfwmark=1\n"),
        )

    def test_after_an_error(self) -> None:
        """The rest of a refused request is skipped, and the next one is read."""
        for end in (b"\n", b"\r\n", b""):
            self.assertEqual(
                [Event.SET, Errno.PROTOCOL, Event.GET],
                everything(b"set=1\nfw\nfwmark=1\n" + PEER, end + b"get=1\n\n"),
            )

    def test_refused_by_the_device(self) -> None:
        """What a device refuses ends the request like an error of form."""
        requests = Requests()
        requests.feed(b"set=1\nlisten_port=1\nfwmark=1\n\nget=1\n\n")
        self.assertEqual([Event.SET, SetListenPort(1)], [requests.take(), requests.take()])
        requests.skip()

        self.assertEqual([Event.GET, None], [requests.take(), requests.take()])

    def test_no_key_in_an_error(self) -> None:
        """An error says which line was wrong and never what it held."""
        for line in (b"private_key=" + HEX + b"0", HEX, HEX + b"=1", b"x" + HEX + b"=" + HEX):
            requests = Requests()
            requests.feed(b"set=1\n" + line + b"\n")
            requests.take()
            with self.assertRaises(Refusal) as caught:
                requests.take()
            self.assertNotIn(HEX.decode()[:8], str(caught.exception))

    def test_line_limit(self) -> None:
        """The longest line passes; a longer one ends request and connection, whole or not."""
        longest = b"fwmark=" + b"1".rjust(LINE_LIMIT - 7, b"0")
        self.assertEqual(
            [Event.SET, SetFwmark(1), Event.DONE], everything(b"set=1\n", longest + b"\n\n")
        )
        for end in (b"", b"\n", b"\n\n"):
            self.assertEqual(
                [Event.SET, Errno.IO, Event.HANG_UP],
                everything(b"set=1\n", longest + b"0" + end, ended=True),
            )

    def test_within(self) -> None:
        """Between requests nobody is waited for; from the first byte on somebody is."""
        requests = Requests()
        self.assertFalse(requests.within)
        for chunk, within in (b"g", True), (b"et=1\n", True), (b"\n", False):
            requests.feed(chunk)
            taken(requests)
            self.assertEqual(within, requests.within, chunk)
        for chunk, within in (b"set=1\n", True), (b"fwmark=1\n", True), (b"\n", False):
            requests.feed(chunk)
            taken(requests)
            self.assertEqual(within, requests.within, chunk)


WORDS = st.sampled_from(
    [
        b"set=1\n",
        b"get=1\n",
        b"\n",
        b"\r\n",
        PEER,
        b"fwmark=1\n",
        b"remove=true\n",
        b"allowed_ip=::/0\n",
        b"x\n",
        b"=",
        b"\0\xff",
    ]
)
STREAMS = st.lists(WORDS | st.binary(max_size=20), max_size=30).map(b"".join)


class StreamTests(SynchronousTestCase):
    """However the bytes arrive."""

    @given(STREAMS, st.lists(st.integers(0, 600), max_size=20), st.booleans())
    def test_cuts_do_not_matter(self, stream: bytes, cuts: list[int], ended: bool) -> None:
        """The same bytes mean the same in one piece and in many."""
        bounds = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
        pieces = [stream[a:b] for a, b in pairwise(bounds)]

        self.assertEqual(everything(stream, ended=ended), everything(*pieces, ended=ended))

    @given(st.lists(st.binary(max_size=200), max_size=20), st.booleans())
    def test_any_bytes(self, chunks: list[bytes], ended: bool) -> None:
        """Junk comes to events or refusals, nothing else."""
        everything(*chunks, ended=ended)
