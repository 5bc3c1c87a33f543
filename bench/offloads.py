"""What ``ethtool -K`` does, for interfaces of the calling thread's network namespace.

Source: the Linux kernel's ``include/uapi/linux/ethtool.h``.
"""

from __future__ import annotations

import ctypes
import fcntl
import socket
import struct

from pyvpn.errors import HostError

SEGMENTATION = (
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
    "tx-udp-segmentation",
)
"""What lets a packet of up to 64 KiB cross as one."""

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GSSET_INFO, _SFEATURES = 0x1B, 0x37, 0x3B
_FEATURES = 4  # of the sets of strings
_NAME = 32  # bytes of a string


def switch_off(interface: str, features: tuple[str, ...] = SEGMENTATION) -> None:
    """Switch these features of *interface* off.

    Raises:
        HostError: the kernel does not know one of them, or lets nobody change it.
    """
    switch(interface, features, on=False)


def switch(interface: str, features: tuple[str, ...], *, on: bool) -> None:
    """Switch these features of *interface* on or off; as :func:`switch_off`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            said = _ask(sock, interface, struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _FEATURES, 0))
            count = int(struct.unpack_from("=I", said, 16)[0])
            strings = struct.pack("=III", _GSTRINGS, _FEATURES, count) + bytes(_NAME * count)
            names = _ask(sock, interface, strings)[12:]
            places = {
                names[_NAME * n : _NAME * (n + 1)].partition(b"\0")[0].decode(): n
                for n in range(count)
            }
            if missing := [name for name in features if name not in places]:
                raise HostError(f"{interface}: the kernel knows no {', '.join(missing)}")
            blocks = -(-count // 32)
            valid = sum(1 << places[name] for name in features)
            words = [(valid >> 32 * block) & 0xFFFFFFFF for block in range(blocks)]
            wanted = b"".join(struct.pack("=II", word, word if on else 0) for word in words)
            _ask(sock, interface, struct.pack("=II", _SFEATURES, blocks) + wanted)
        except OSError as error:
            raise HostError(f"{interface}: offloads stay as they are: {error.strerror}") from error


def _ask(sock: socket.socket, interface: str, question: bytes) -> bytes:
    """Put a question of ethtool's and return the same bytes as the kernel has filled them in."""
    buffer = ctypes.create_string_buffer(question, len(question))
    request = struct.pack("=16sQ16x", interface.encode(), ctypes.addressof(buffer))
    fcntl.ioctl(sock, _SIOCETHTOOL, request)
    return buffer.raw
