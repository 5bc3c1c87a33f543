"""What a configuration request may say, line by line, and how it may fail.

The values are as the client wrote them (:mod:`pyvpn.wire.uapi_values`): nothing here has been
looked at by a device yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pyvpn.errors import PeerError
from pyvpn.wire.uapi_values import Endpoint


class Errno(IntEnum):
    """What stands behind ``errno=``: Linux's numbers, negative, but for wireguard-go's 55."""

    OK = 0
    NOT_PERMITTED = -1
    IO = -5
    INVALID = -22
    UNKNOWN = -55
    PROTOCOL = -71
    PORT_IN_USE = -98


class Refusal(PeerError):
    """A request that cannot be: *errno* is for the program that asked, the text for people."""

    def __init__(self, errno: Errno, text: str) -> None:
        super().__init__(text)
        self.errno = errno


@dataclass(frozen=True, slots=True)
class SetPrivateKey:
    """Use this key (32 bytes as written, not clamped); all zeros: use none."""

    key: bytes


@dataclass(frozen=True, slots=True)
class SetListenPort:
    """Listen on this UDP port; 0: on any."""

    port: int


@dataclass(frozen=True, slots=True)
class SetFwmark:
    """Mark what is sent with this number (SO_MARK); 0: do not."""

    mark: int


@dataclass(frozen=True, slots=True)
class ReplacePeers:
    """Forget all peers; those named in the same request come anew."""


@dataclass(frozen=True, slots=True)
class SelectPeer:
    """The lines after this one are about the peer with this key, which is made if need be."""

    public: bytes


@dataclass(frozen=True, slots=True)
class UpdateOnly:
    """If this request has just made the peer, forget it, and ignore what is said about it."""


@dataclass(frozen=True, slots=True)
class RemovePeer:
    """Forget the peer, and ignore what else is said about it."""


@dataclass(frozen=True, slots=True)
class SetPresharedKey:
    """Mix this key (32 bytes) into handshakes; all zeros: none."""

    key: bytes


@dataclass(frozen=True, slots=True)
class SetEndpoint:
    """The peer is there, until it is heard from elsewhere."""

    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class SetKeepalive:
    """Say something every so many seconds; 0: do not."""

    seconds: int


@dataclass(frozen=True, slots=True)
class ReplaceAllowedIps:
    """Forget the peer's networks; those named after this line come anew."""


@dataclass(frozen=True, slots=True)
class AllowedIp:
    """Give the peer a network (4 or 16 packed bytes, bits after *length* clear), or take it."""

    network: bytes
    length: int
    remove: bool


Operation = (
    SetPrivateKey
    | SetListenPort
    | SetFwmark
    | ReplacePeers
    | SelectPeer
    | UpdateOnly
    | RemovePeer
    | SetPresharedKey
    | SetEndpoint
    | SetKeepalive
    | ReplaceAllowedIps
    | AllowedIp
)
