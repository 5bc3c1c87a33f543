"""The values of the configuration protocol, read and written as wireguard-go does.

Its judge is Go's library: what ``netip.ParseAddrPort``, ``netip.ParsePrefix``,
``strconv.ParseUint`` and ``hex.DecodeString`` take is taken here, and nothing else.  A text is
str of one character a byte (Latin-1), so that any byte may be in it.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import NamedTuple

KEY_BYTES = 32

_HEX = frozenset("0123456789abcdefABCDEF")
_OCTETS = {str(number): number for number in range(256)}  # no zeros in front, no other digits
_MAPPED = bytes(10) + b"\xff\xff"  # of ::ffff:192.0.2.1


class Endpoint(NamedTuple):
    """Where a peer is reached, as somebody wrote it.

    *host* is packed (4 or 16 bytes; an IPv4-mapped address stays 16).  *zone* is the name or
    number of an interface, "" for none: any text, since nobody has looked it up yet.
    """

    host: bytes
    port: int
    zone: str = ""

    def __str__(self) -> str:
        """``192.0.2.1:51820``, ``[2001:db8::1]:51820`` or ``[fe80::1%eth0]:51820``."""
        if len(self.host) == 4:
            return f"{address_text(self.host)}:{self.port}"
        zone = f"%{self.zone}" if self.zone else ""
        return f"[{address_text(self.host)}{zone}]:{self.port}"


def parse_key(text: str) -> bytes:
    """Read 32 bytes of hexadecimal, in either case.

    Raises:
        ValueError: anything else; the text is not repeated, it may be a secret.
    """
    # bytes.fromhex alone would forgive spaces.
    if len(text) != 2 * KEY_BYTES or not _HEX.issuperset(text):
        raise ValueError("not 64 hexadecimal digits")
    return bytes.fromhex(text)


def parse_number(text: str, bits: int) -> int:
    """Read an unsigned decimal number below 2**bits; leading zeros are allowed, signs are not.

    Raises:
        ValueError: it is none.
    """
    digits = text.lstrip("0") if text[:1] == "0" else text
    # The length first: Python refuses to convert more than 4,300 digits in words of its own.
    if text.isascii() and text.isdigit() and len(digits) <= 20:
        number = int(text)
        if number < 1 << bits:
            return number
    raise ValueError(f"not a number from 0 to {(1 << bits) - 1}")


def parse_endpoint(text: str) -> Endpoint:
    """Read ``192.0.2.1:51820`` or ``[2001:db8::1]:51820``: an address, never a name.

    Raises:
        ValueError: it is none.
    """
    host, colon, port = text.rpartition(":")
    if not (colon and host and port):
        raise ValueError("not address:port")
    bracketed = host[0] == "["
    if bracketed:
        if len(host) < 2 or host[-1] != "]":
            raise ValueError("a bracket is not closed")
        host = host[1:-1]
    number = parse_number(port, 16)
    packed, zone = _parse_address(host)
    if bracketed != (len(packed) == 16):
        raise ValueError("brackets belong around an IPv6 address, and around no other")
    return Endpoint(packed, number, zone)


def parse_prefix(text: str) -> tuple[bytes, int]:
    """Read ``10.0.0.0/8`` or ``2001:db8::/32``; bits after the prefix are cleared.

    Returns:
        The packed network (4 or 16 bytes; IPv4-mapped stays 16) and its length in bits.

    Raises:
        ValueError: it is none; a lone address is none, nor is one with a zone.
    """
    address, slash, bits = text.rpartition("/")
    if not slash:
        raise ValueError("not address/length")
    packed, zone = _parse_address(address)
    if zone:
        raise ValueError("a network has no zone")
    most = 8 * len(packed)
    if not (bits.isascii() and bits.isdigit()) or len(bits) > 3 or (bits[0] == "0" != bits):
        raise ValueError("not a prefix length")
    length = int(bits)
    if length > most:
        raise ValueError(f"a prefix length is at most {most} here")
    shift = most - length
    if shift:
        packed = (int.from_bytes(packed) >> shift << shift).to_bytes(len(packed))
    return packed, length


def address_text(packed: bytes) -> str:
    """Write an address of 4 or 16 bytes; an IPv4-mapped one as ``::ffff:192.0.2.1``."""
    if len(packed) == 4:
        return f"{packed[0]}.{packed[1]}.{packed[2]}.{packed[3]}"
    if packed.startswith(_MAPPED):  # Python 3.13 writes these so, 3.11 does not
        return f"::ffff:{address_text(packed[12:])}"
    return str(IPv6Address(packed))


def prefix_text(packed: bytes, length: int) -> str:
    """Write a network that :func:`parse_prefix` read."""
    return f"{address_text(packed)}/{length}"


def _parse_address(text: str) -> tuple[bytes, str]:
    """Return the packed address and its zone, "" for none."""
    if ":" not in text:
        return _parse_ipv4(text), ""
    address, percent, zone = text.partition("%")
    if percent and not zone:
        raise ValueError("an empty zone")
    return _parse_ipv6(address), zone


# By hand, as ipaddress takes four times as long, and there may be 65,000 of them.


def _parse_ipv4(text: str) -> bytes:
    octets = text.split(".")
    if len(octets) != 4:
        raise ValueError("not an IP address")
    try:
        return bytes([_OCTETS[octet] for octet in octets])
    except KeyError:
        raise ValueError("not an IP address") from None


def _parse_ipv6(text: str) -> bytes:
    """Read what RFC 4291 section 2.2 describes, all three forms of it."""
    head, gap, tail = text.partition("::")
    before = head.split(":") if head else []
    after = tail.split(":") if tail else []
    last = after or before
    if last and "." in last[-1] and (after or not gap):
        last[-1:] = _parse_ipv4(last[-1]).hex(":", 2).split(":")
    missing = 8 - len(before) - len(after)
    if missing < 1 if gap else missing != 0:
        raise ValueError("not an IP address")
    groups = [*before, *["0"] * missing, *after]
    digits = "".join([group.zfill(4) for group in groups if group])
    if len(digits) != 32 or not _HEX.issuperset(digits) or max(map(len, groups)) > 4:
        raise ValueError("not an IP address")
    return bytes.fromhex(digits)
