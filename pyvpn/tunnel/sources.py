"""What counts as one source of connections."""

from __future__ import annotations

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, IPv4 as a two-family listener sees it


def source_of(address: bytes) -> bytes:
    """Return the part of a packed *address* that one customer cannot change at will.

    IPv4: all of it.  IPv6: the /64, which the poorest customer has whole.  An IPv4-mapped
    address is IPv4: all of them lie in one /64.
    """
    if len(address) == 16:
        return address[12:] if address.startswith(_MAPPED) else address[:8]
    return address
