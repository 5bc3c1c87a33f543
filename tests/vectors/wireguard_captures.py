"""Real WireGuard sessions with all their keys, which Wireshark's own tests decrypt.

Published by the Wireshark project (https://gitlab.com/wireshark/wireshark): the captures
``wireguard-ping-tcp.pcap`` and ``wireguard-psk.pcap`` in ``test/captures``, the private keys in
``test/suite_decryption.py``.  Both ends were Linux kernels, MTU 1420.

The captures themselves are not here.  What a sender chose in each message is (index, timestamp,
counter, the fields of the packet inside), and the SHA-256 of the datagram the capture has for it.
"""

from __future__ import annotations

import struct
from base64 import b64decode
from typing import NamedTuple

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet, Raw

from pyvpn.crypto.noise import NO_PSK
from pyvpn.crypto.x25519 import StaticKey
from pyvpn.wire.datagram import DATA, INITIATION, RESPONSE

MTU = 1420

LEFT = StaticKey(b64decode("AKeZaHwBxjiKLFnkY2unvEdOTtg4AL+M9dQXfopFVFk="))
RIGHT = StaticKey(b64decode("cFIxTUyBs1Qil414hBwEgvasEax8CKJ5IS5ZougplWs="))
PUBLISHED_PUBLIC = (
    b64decode("Igge9KzRytKNwrgkzDE/8hrLu6Ly0OqVdvOPWhA5KR4="),
    b64decode("YDCttCs9e1J52/g9vEnwJJa+2x6RqaayAYMpSVQfGEY="),
)


class Session(NamedTuple):
    """What both sides of a handshake chose."""

    initiator: StaticKey
    responder: StaticKey
    ephemerals: tuple[bytes, bytes]
    """Private: the initiator's, the responder's."""
    indices: tuple[int, int]
    """Likewise."""
    timestamp: bytes
    psk: bytes


def _session(
    initiator: StaticKey,
    ephemerals: tuple[str, str],
    indices: tuple[int, int],
    timestamp: str,
    psk: bytes = NO_PSK,
) -> Session:
    return Session(
        initiator,
        RIGHT if initiator is LEFT else LEFT,
        (b64decode(ephemerals[0]), b64decode(ephemerals[1])),
        indices,
        bytes.fromhex(timestamp),
        psk,
    )


FIRST = _session(
    LEFT,
    (
        "sLGLJSOQfyz7JNJ5ZDzFf3Uz1rkiCMMjbWerNYcPFFU=",
        "QC4/FZKhFf0b/eXEcCecmZNt6V6PXmRa4EWG1PIYTU4=",
    ),
    (0x30D037D8, 0xAB7DF406),
    "400000005b52647b15405610",
)
SECOND = _session(
    LEFT,
    (
        "ULv83D+y3vA0t2mgmTmWz++lpVsrP7i4wNaUEK2oX0E=",
        "sBv1dhsm63cbvWMv/XML+bvynBp9PTdY9Vvptu3HQlg=",
    ),
    (0xBFFD41C5, 0x26DE9EB9),
    "400000005b5265071d3ca7b4",
)
WITH_PSK = _session(
    LEFT,
    (
        "iCv2VTi/BC/q0egU931KXrrQ4TSwXaezMgrhh7uCbXs=",
        "8G1N3LnEqYC7+NW/b6mqceVUIGBMAZSm+IpwG1U0j0w=",
    ),
    (0xC1039C02, 0xDCE3FA01),
    "400000005b60ed663156716e",
    b64decode("//////////////////////////////////////////8="),
)
WITH_ANOTHER_PSK = _session(
    RIGHT,
    (
        "+MHo9sfkjPsjCx7lbVhRLDvMxYvTirOQFDSdzAW6kUQ=",
        "0G6t5j1B/We65MXVEBIGuRGYadwB2ITdvJovtAuATmc=",
    ),
    (0x81470AFF, 0x1860FCAA),
    "400000005b60eec620bf51fc",
    b64decode("iIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIg="),
)


class Message(NamedTuple):
    """One datagram of a capture."""

    kind: int
    session: Session
    sha256: str
    from_initiator: bool = True
    counter: int = 0
    packet: bytes | None = b""
    """The packet inside a data message, unpadded; None: of 1.6 KB of TLS, only the digest."""


def _built(packet: Packet) -> bytes:
    return bytes(packet)  # checksums and lengths come with that


def _ping(number: int, ident: int, time: str) -> bytes:
    ip = IP(src="10.10.0.2", dst="10.10.0.1", ttl=64, flags="DF", id=ident)
    return _built(ip / ICMP(type=8, id=0x6C00, seq=number) / _when(time))


def _pong(number: int, ident: int, time: str) -> bytes:
    ip = IP(src="10.10.0.1", dst="10.10.0.2", ttl=64, id=ident)
    return _built(ip / ICMP(type=0, id=0x6C00, seq=number) / _when(time))


def _when(time: str) -> Packet:
    return Raw(bytes.fromhex(time).ljust(56, b"\0"))


_NAME = b"\x0alekensteyn\x02nl\0"


def _question(ident: int, kind: int, ip_ident: int) -> bytes:
    payload = struct.pack("!6H", ident, 0x0100, 1, 0, 0, 0) + _NAME + struct.pack("!HH", kind, 1)
    ip = IP(src="10.10.0.1", dst="1.1.1.1", ttl=64, flags="DF", id=ip_ident)
    return _built(ip / UDP(sport=52950, dport=53) / Raw(payload))


def _answer(ident: int, kind: int, ip_ident: int, address: str) -> bytes:
    data = bytes.fromhex(address)
    payload = (
        struct.pack("!6H", ident, 0x8180, 1, 1, 0, 0)
        + _NAME
        + struct.pack("!HH", kind, 1)
        + struct.pack("!HHHIH", 0xC00C, kind, 1, 5812, len(data))
        + data
    )
    ip = IP(src="1.1.1.1", dst="10.10.0.1", ttl=63, id=ip_ident)
    return _built(ip / UDP(sport=53, dport=52950) / Raw(payload))


_CLIENT = {"sport": 49472, "dport": 443}
_SERVER = {"sport": 443, "dport": 49472}


def _from_client(ip_ident: int, tcp: Packet) -> bytes:
    return _built(IP(src="10.10.0.1", dst="178.21.112.251", ttl=64, flags="DF", id=ip_ident) / tcp)


def _from_server(ip_ident: int, tcp: Packet) -> bytes:
    return _built(IP(src="178.21.112.251", dst="10.10.0.1", ttl=63, id=ip_ident) / tcp)


_SYN = TCP(
    **_CLIENT,
    flags="S",
    seq=0x8B1B14A8,
    window=27600,
    options=[
        ("MSS", 1380),
        ("SAckOK", b""),
        ("Timestamp", (0x3FAABB43, 0)),
        ("NOP", None),
        ("WScale", 7),
    ],
)
_SYN_ACK = TCP(
    **_SERVER, flags="SA", seq=0xFA01, ack=0x8B1B14A9, window=8192, options=[("MSS", 1460)]
)
_ACK = TCP(**_CLIENT, flags="A", seq=0x8B1B14A9, ack=0xFA02, window=27600)
_HELLO_ACK = TCP(**_SERVER, flags="A", seq=0xFA02, ack=0x8B1B1581, window=8760)

_A, _AAAA = 1, 28
_TLS = None

CAPTURES = {
    "wireguard-ping-tcp.pcap": [
        Message(
            INITIATION, FIRST, "7c05d2abae51ab490a0ec6cd9f821c8162c0effcb85653e4f55a7b2213c4f567"
        ),
        Message(
            RESPONSE,
            FIRST,
            "e10dcff3e88f30ae9af0f097cbc83b273cf14874c9fdfbd830d0a57a5a5aa7b4",
            False,
        ),
        Message(
            DATA,
            FIRST,
            "ba71c68dcb0ebc35da38180a3921195fbb81489799bc680b897b63234438ce9b",
            True,
            0,
            _ping(0, 0xE546, "6fad22f5"),
        ),
        Message(
            DATA,
            FIRST,
            "46b8a94181b9b8fc8f8a54c5b52254f0ad26178ab9df53798993be2cf3d85f62",
            False,
            0,
            _pong(0, 0xA11D, "6fad22f5"),
        ),
        Message(
            DATA,
            FIRST,
            "d592e6c1edd31521d204081ff2e14decb00392c07c96e5dc8ab948b7a1636055",
            True,
            1,
            _ping(1, 0xE627, "a40b32f5"),
        ),
        Message(
            DATA,
            FIRST,
            "bfcc8653ee364a47caa905274f34a624c99225961406e46f4f86795353bc0556",
            False,
            1,
            _pong(1, 0xA1FA, "a40b32f5"),
        ),
        Message(
            DATA,
            FIRST,
            "c67287dfc4d12ccc81c0e6cd1cb2b3a329434ea3bc36017d07a6dcfcca3191fc",
            True,
            2,
            _ping(2, 0xE678, "555d41f5"),
        ),
        Message(
            DATA,
            FIRST,
            "bcfce073369693fbc2d78d1969ad445b8c7fa1e5b389279fd19e40dbb6f5576a",
            False,
            2,
            _pong(2, 0xA299, "555d41f5"),
        ),
        Message(
            DATA,
            FIRST,
            "e9bfe15a15eee6aecb9ad08fc4d891ba711c06d14c9c473500675e45f3a16a9e",
            True,
            3,
            b"",
        ),
        Message(
            DATA,
            FIRST,
            "c13d88c16776684c0fe8b0127678a31da25ee864897d4d3022ccd6c237a8e361",
            False,
            3,
            _question(0x1007, _A, 0xBB47),
        ),
        Message(
            DATA,
            FIRST,
            "e44ea1aad6813ac94a7c44c639e76dac7af89198cf044f0bb9f1aed9c5856ff5",
            False,
            4,
            _question(0x922E, _AAAA, 0xBB48),
        ),
        Message(
            DATA,
            FIRST,
            "ca9d51be756861a2458775bc76f68c39c954eff24c17dccda7b17ee59885c432",
            True,
            4,
            _answer(0x1007, _A, 0, "b21570fb"),
        ),
        Message(
            INITIATION, SECOND, "58a0c0f30828cea62cb9741133de1d8bec556b2eeb9ce61df07835c60b424af3"
        ),
        Message(
            RESPONSE,
            SECOND,
            "86e118ac361d9e6c9aec3300390649121ab527f9bccd3faa8eb067f6cd59e9f0",
            False,
        ),
        Message(
            DATA,
            FIRST,
            "6cf9f0aa9d32f7249581fcac7ac781bfc9f3b7422c36bb7a5c8e69306261f090",
            True,
            5,
            _answer(0x922E, _AAAA, 1, "2a022308000000000000036000010001"),
        ),
        Message(
            DATA,
            SECOND,
            "74b66e383d018940895d67076b14b5872dce702381b872247bdd33bce186786c",
            True,
            0,
            b"",
        ),
        Message(
            DATA,
            SECOND,
            "614c36058c764d9391124b19271eea0ddd2b927c76aa2793fc132acc712c94cd",
            False,
            0,
            _from_client(0x98A8, _SYN),
        ),
        Message(
            DATA,
            SECOND,
            "de28a113773904b2ae262446ac9961f6d85a30bbfa60505c854dcadd794a2b57",
            True,
            1,
            _from_server(2, _SYN_ACK),
        ),
        Message(
            DATA,
            SECOND,
            "10eb14300b3c6589ea08687e8c68306446139e5053b5616bc2a9592e20cbf14b",
            False,
            1,
            _from_client(0x98A9, _ACK),
        ),
        Message(
            DATA,
            SECOND,
            "9c543611b526ee01e7e31aae91764a1edee53876862375233f64340041b465fc",
            False,
            2,
            _TLS,
        ),
        Message(
            DATA,
            SECOND,
            "e956773f0340f9593646b33be121512aa383ac21ca53e2f4eeb6a2d1edbffa61",
            True,
            2,
            _from_server(3, _HELLO_ACK),
        ),
        Message(
            DATA,
            SECOND,
            "d661611f8b72cadc61deff925c6f8405724d917f8d698d5afcd60c14618124ce",
            True,
            3,
            _TLS,
        ),
    ],
    "wireguard-psk.pcap": [
        Message(
            INITIATION,
            WITH_PSK,
            "363a845e341fc1dcb471c0088764a1ab565766160828043a82fe65a79e9517b2",
        ),
        Message(
            RESPONSE,
            WITH_PSK,
            "a12fc7a4861680869dd6bb1562e4e3d30a78feffdded33436881237a35ba21ec",
            False,
        ),
        Message(
            INITIATION,
            WITH_ANOTHER_PSK,
            "85f0c8e7a9d17378e80f22eb69764701b4b3c28ba5078931fc1b383aab1c7175",
        ),
        Message(
            RESPONSE,
            WITH_ANOTHER_PSK,
            "4bc6020d6a96670b4ef463854a2b8e18967336c6327f5cb78165e401dcc74e67",
            False,
        ),
    ],
}
"""The name of each capture, and its datagrams from the first to the last."""
