"""The TUN device: the kernel's end of the tunnel, as a descriptor of our own in the reactor.

What we send it takes as super-packets (:mod:`pyvpn.wire.segments`), which saves the kernel's whole
way through the network for all packets of one but the first.  Kernels that know no virtio headers
get packets one by one.

Rules of this file: nothing raises into the reactor, which would drop us and live on deaf; a
packet the kernel does not take is counted and forgotten; the loss of the device is told once.

(A long file: one descriptor in the reactor, and what may come out of it and go into it depends on
the same few facts about the kernel.)
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pyvpn.errors import HostError, Misuse
from pyvpn.interfaces import IPacketSink
from pyvpn.net.tun_system import (
    CHECKSUM,
    DEVICE,
    TCP_SEGMENTS,
    UDP_SEGMENTS,
    KernelTunSystem,
)
from pyvpn.net.tun_system import (
    ITunSystem as ITunSystem,
)
from pyvpn.tunnel.counters import Counters, Drop
from pyvpn.wire.offload import largest_of
from pyvpn.wire.rebuild import SuperPacket
from pyvpn.wire.segments import GSO_UDP, PLAIN, VNET_SIZE, cut, join
from pyvpn.wire.slab import LEAST as SLAB
from pyvpn.wire.slab import Slab

BATCH = 45
"""Packets read per turn of the reactor, so that the connections get theirs.

So many of the usual MTU leave as one UDP datagram does (64 KiB, sealed), and fit into the queue of
a control link; from a larger batch that link would drop what is behind.
"""
UNCUT_BATCH = 4 * BATCH
"""The same where packets that come as one stay one: 0.6 ms of work."""
NAME_LENGTH = 15  # bytes; the kernel's IFNAMSIZ less the terminating zero

_LONGEST = 65_536 + VNET_SIZE
"""More bytes than a packet of any MTU (at most 65,535) has.  A shorter buffer, of which somebody
would have to change the size with the MTU, is not faster: 1.03 us a packet with either."""

_GONE = frozenset({errno.EBADFD, errno.EBADF, errno.ENODEV, errno.ENXIO})
_PASSING = frozenset({errno.EAGAIN, errno.EIO, errno.ENOMEM, errno.ENOBUFS})

_ATTEMPT = "cannot open the tunnel device {name}: "
_NO_DEVICE = (
    f"{DEVICE} is not there: load the driver with  modprobe tun,  or give it to the container "
    f"with  --device {DEVICE}"
)
_OPEN_ERRORS = {
    errno.ENOENT: _NO_DEVICE,
    errno.ENODEV: _NO_DEVICE,
    errno.ENXIO: _NO_DEVICE,
    errno.EACCES: f"we may not use {DEVICE}: its usual mode is 0666,  chmod 0666 {DEVICE}",
    errno.EPERM: f"the container may not use {DEVICE}: start it with  --device {DEVICE}",
}
_ATTACH_ERRORS = {
    errno.EPERM: "that needs root or CAP_NET_ADMIN (the systemd units grant it)",
    errno.EBUSY: "another process holds it: stop that one, or choose another name",
    errno.EINVAL: (
        "an interface of that name exists and is not a TUN of this kind: choose another name"
    ),
}


class TunDrop(StrEnum):
    """Why the TUN lost a packet, beyond the reasons that every sink may have."""

    DOWN = "tun-down"
    """Somebody set the interface down; it may come up again."""
    GONE = "tun-gone"
    """There is no device just now."""
    REFUSED = "tun-refused"
    """The kernel takes the bytes for no packet."""
    UNCUT = "tun-not-to-be-cut"
    """The kernel handed out several packets as one in a way that we do not understand."""


_WRITE_ERRORS: dict[int | None, str] = {
    errno.EAGAIN: Drop.TUN_FULL,
    errno.ENOBUFS: Drop.TUN_FULL,
    errno.ENOMEM: Drop.TUN_FULL,
    errno.EIO: TunDrop.DOWN,
}


class TunReactor(Protocol):
    """What we ask of the reactor."""

    def addReader(self, reader: IReadDescriptor) -> None: ...

    def removeReader(self, reader: IReadDescriptor) -> None: ...

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object
    ) -> IDelayedCall: ...


@implementer(IReadDescriptor, IPacketSink)
class Tun:
    """One TUN device: packets out of the kernel in batches, packets into it at once.

    Args:
        reactor: where we are read from.
        name: of the interface.
        mtu: bytes of the largest packet; a longer one (somebody raised the interface's MTU)
            is dropped and counted.  None: the interface's own MTU, whatever it becomes, is the
            only limit.  May be assigned while running.
        received: takes each batch of packets, oldest first.
        lost: told once, in a turn of its own, with the reason in words, when the device has
            been deleted under us.  By then we are closed; `open` and `start` may follow.
        counters: where drops go.
        system: the kernel, unless a test has another.
        segments: have the kernel hand out super-packets, and cut them ourselves.  It does that
            at less cost: 1.3 s of our time a Gbit of TCP, and 1.8 with this.
        frames: takes each batch instead of *received*, but as the kernel hands it out, virtio
            headers and super-packets uncut; while :meth:`hand_out_frames` says so.
        slab: takes each large super-packet where it lies, before what comes later in the batch,
            which ends with a call of *frames*, if only with none.
    """

    def __init__(
        self,
        reactor: TunReactor,
        name: str,
        mtu: int | None,
        received: Callable[[list[bytes]], None],
        lost: Callable[[str], None],
        counters: Counters,
        system: ITunSystem | None = None,
        *,
        segments: bool = False,
        frames: Callable[[list[bytes]], None] | None = None,
        slab: Callable[[Slab], None] | None = None,
    ) -> None:
        if not 0 < len(name.encode()) <= NAME_LENGTH:
            raise Misuse(f"interface name {name!r}: the kernel takes 1 to {NAME_LENGTH} bytes")
        self.name = name
        self.mtu = mtu
        self._reactor = reactor
        self._received = received
        self._lost = lost
        self._counters = counters
        self._system: ITunSystem = KernelTunSystem() if system is None else system
        self._fd = -1
        self._segments = segments
        self._frames = frames
        self._take_slab = slab
        self._slab = Slab()
        self._uncut = False
        self._headers = False
        self._datagrams = False
        self._told_of_bug = False

    _log = Logger()

    def open(self) -> None:
        """Make the device; addresses, MTU and "up" are the business of pyvpn.net.host.

        Raises:
            HostError: the kernel does not give it; the text says why and what to do.
            Misuse: it is open.
        """
        if self._fd != -1:
            raise Misuse(f"{self.name} is open")
        self._fd = self._acquire(True)

    def _acquire(self, headers: bool) -> int:
        """Open and attach, with virtio headers if the kernel knows them."""
        system = self._system
        try:
            fd = system.open()
        except OSError as error:
            raise self._open_error(error, _OPEN_ERRORS) from error
        try:
            self.name = system.attach(fd, self.name, headers)
        except OSError as error:
            system.close(fd)
            if headers and error.errno == errno.EINVAL:
                return self._acquire(False)
            raise self._open_error(error, _ATTACH_ERRORS) from error
        self._headers = headers
        if headers:
            # Nothing else tells whether the kernel knows UDP super-packets.
            self._datagrams = self._offload(fd, CHECKSUM | UDP_SEGMENTS)
            self._choose_offloads(fd)
        return fd

    def _choose_offloads(self, fd: int) -> None:
        tcp = CHECKSUM | TCP_SEGMENTS
        wanted = self._segments or self._uncut
        for what in (tcp | UDP_SEGMENTS, tcp, 0) if wanted else (0,):
            if self._offload(fd, what):
                return

    def hand_out_frames(self, wanted: bool) -> None:
        """Hand out frames, if somebody takes them and the kernel has any, or packets again.

        Also what the kernel had queued before may be either.
        """
        wanted = wanted and self._frames is not None
        if wanted != self._uncut:
            self._uncut = wanted
            if self._fd != -1 and self._headers:
                self._choose_offloads(self._fd)

    def _offload(self, fd: int, what: int) -> bool:
        try:
            self._system.offload(fd, what)
        except OSError:
            return False
        return True

    def start(self) -> None:
        """Begin to hand out packets."""
        if self._fd == -1:
            raise Misuse(f"{self.name} is not open")
        self._reactor.addReader(self)

    def close(self) -> None:
        """Give the device back; a closed TUN may be closed, or opened, again."""
        if self._fd != -1:
            fd = self._fd
            self._reactor.removeReader(self)  # asks for our number: before it is gone
            self._fd = -1
            self._system.close(fd)

    def send_packets(self, packets: list[bytes]) -> int:
        """Write all, what fits together as one; what the kernel does not take is dropped, counted.

        Returns:
            How many packets it took; with drops before the end, not necessarily the first ones.
        """
        if self._headers:
            return self._send_joined(packets)
        write, fd = self._system.write, self._fd
        accepted = 0
        for index, packet in enumerate(packets):
            try:
                write(fd, packet)
            except OSError as error:
                if not self._refused(error, 1, len(packets) - index):
                    break
            else:
                accepted += 1
        return accepted

    def _send_joined(self, packets: list[bytes]) -> int:
        writev, fd = self._system.writev, self._fd
        accepted = 0
        left = len(packets)
        for pieces, inside in join(packets, self._datagrams):
            count = len(inside)
            try:
                writev(fd, pieces)
            except OSError as error:
                if count > 1 and error.errno == errno.EINVAL:
                    accepted += self._send_singly(inside)
                elif not self._refused(error, count, left):
                    break
            else:
                accepted += count
            left -= count
        return accepted

    def send_super_packets(self, packets: list[SuperPacket]) -> int:
        """Write each as it is, or, where the kernel does not take it so, what it stands for."""
        writev, fd = self._system.writev, self._fd
        accepted = 0
        left = sum(packet.segments for packet in packets)
        for packet in packets:
            count = packet.segments
            if not self._headers or (
                packet.pieces[0][1] == GSO_UDP and not self._datagrams and count > 1
            ):
                accepted += self.send_packets(packet.cut())
                left -= count
                continue
            try:
                writev(fd, packet.pieces)
            except OSError as error:
                if count > 1 and error.errno == errno.EINVAL:
                    accepted += self._send_singly(packet.cut())
                elif not self._refused(error, count, left):
                    break
            else:
                accepted += count
            left -= count
        return accepted

    def _send_singly(self, packets: list[bytes]) -> int:
        """Write what the kernel does not take as one."""
        writev, fd = self._system.writev, self._fd
        accepted = 0
        for packet in packets:
            try:
                writev(fd, [PLAIN, packet])
            except OSError as error:
                self._refused(error, 1, 1)
            else:
                accepted += 1
        return accepted

    def _refused(self, error: OSError, n: int, left: int) -> bool:
        """Count *n* packets that were not taken; False: nor will be any of the *left*."""
        if error.errno in _GONE:
            self._counters.drop(TunDrop.GONE, left)
            self._device_gone(error)
            return False
        self._counters.drop(_WRITE_ERRORS.get(error.errno, TunDrop.REFUSED), n)
        return True

    def fileno(self) -> int:
        """The descriptor, which also :class:`pyvpn.net.link_state.LinkWatch` asks; -1: closed."""
        return self._fd

    def logPrefix(self) -> str:
        return self.name

    def doRead(self) -> None:
        """Collect what is there, at most a batch, and pass it on in one piece.

        What comes as one packet and is cut may make the batch larger, by what that holds.
        """
        if self._uncut and self._headers:
            self._read_frames()
            return
        read, fd, headers = self._system.read, self._fd, self._headers
        limit = _LONGEST if self.mtu is None else self.mtu
        packets: list[bytes] = []
        gone: OSError | None = None
        for _ in range(BATCH):
            try:
                packet = read(fd, _LONGEST)
            except OSError as error:
                if error.errno not in _PASSING:  # an unknown error is no reason to spin
                    gone = error
                break
            if headers and not packet.startswith(PLAIN):
                packets += self._cut(packet, limit)
                if len(packets) >= BATCH:
                    break
                continue
            if headers:
                packet = packet[VNET_SIZE:]
            if len(packet) > limit:
                self._counters.drop(Drop.TOO_BIG)
            else:
                packets.append(packet)
        if packets:
            self._pass_on(self._received, packets)
        if gone is not None:
            self._device_gone(gone)

    def _read_frames(self) -> None:
        read, fd, slab, take_slab = self._system.readv, self._fd, self._slab, self._take_slab
        assert self._frames is not None
        limit = _LONGEST if self.mtu is None else self.mtu
        frames: list[bytes] = []
        gone: OSError | None = None
        left = UNCUT_BATCH
        room = [slab.buffer]
        while left > 0:
            try:
                size = read(fd, room)
            except OSError as error:
                if error.errno not in _PASSING:
                    gone = error
                break
            left -= 1 + size // 1500  # so many packets, or nearly
            slab.take(size)
            if largest_of(slab.start, size) > limit:
                self._counters.drop(Drop.TOO_BIG, len(cut(slab.frame())) or 1)
            elif size < SLAB or take_slab is None:
                frames.append(slab.frame())
            else:
                if frames:  # which came before it
                    self._pass_on(self._frames, frames)
                    frames = []
                self._pass_on(take_slab, slab)
        if left < UNCUT_BATCH:
            self._pass_on(self._frames, frames)
        if gone is not None:
            self._device_gone(gone)

    def connectionLost(self, reason: Failure) -> None:
        """The reactor gave us up: the device was deleted, or the reactor itself ends.

        epoll reports a deleted device as an error without anything to read, so this, not
        doRead, is where we usually hear of it.
        """
        if self._fd == -1:
            return
        try:
            self._system.read(self._fd, _LONGEST)
        except OSError as error:
            if error.errno in _GONE:
                self._device_gone(error)

    def _cut(self, frame: bytes, limit: int) -> list[bytes]:
        packets = cut(frame)
        if not packets:
            self._counters.drop(TunDrop.UNCUT)
        elif len(packets[0]) > limit:  # no other is larger
            self._counters.drop(Drop.TOO_BIG, len(packets))
            return []
        return packets

    def _pass_on(self, received: Callable[[Any], None], batch: list[bytes] | Slab) -> None:
        try:
            received(batch)
        except Exception:  # noqa: BLE001 - raised into the reactor, a bug would end the tunnel
            # Told once: who can provoke the bug with a packet could else fill the disk.
            if not self._told_of_bug:
                self._told_of_bug = True
                self._log.failure("a batch from {name} was lost to a bug of ours", name=self.name)

    def _device_gone(self, error: OSError) -> None:
        if self._fd == -1:
            return
        self.close()
        # Later: who hears it opens a new device, perhaps with another number, and the reactor
        # is not to find that in the middle of its work on the old one.
        self._reactor.callLater(
            0, self._lost, f"the interface {self.name} is gone ({error.strerror})"
        )

    def _open_error(self, error: OSError, texts: dict[int, str]) -> HostError:
        text = texts.get(error.errno or 0, error.strerror or str(error))
        return HostError(_ATTEMPT.format(name=self.name) + text)
