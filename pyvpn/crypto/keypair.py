"""The two keys of a session: packets sealed into data messages, and opened again.

A keypair knows no peer and no clock.  Which of a peer's keypairs seals, and when one is too old,
is decided in :mod:`pyvpn.tunnel`.

Source: WireGuard whitepaper section 5.4.6 and 6.1.
"""

from __future__ import annotations

from enum import Enum
from itertools import compress, repeat
from operator import add
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

from pyvpn.crypto.noise import TransportKeys
from pyvpn.crypto.replay import LIMIT, ReplayWindow
from pyvpn.wire.datagram import DATA, DATA_HEADER, OFFLOAD, counter_of

if TYPE_CHECKING:
    from pyvpn.wire.offload import Run, Shape
    from pyvpn.wire.packed import Packed
    from pyvpn.wire.slab import Sealed, Slab

REKEY_AFTER_MESSAGES = 2**60
"""After so many sealed with one keypair it is time for another."""
REJECT_AFTER_MESSAGES = LIMIT
"""And after so many nothing more is sealed or opened."""
REKEY_AFTER_TIME = 120.0
"""Seconds after the handshake that whoever began it begins another."""
REJECT_AFTER_TIME = 180.0
"""Seconds after it that nothing more is sealed or opened."""
REKEY_TIMEOUT = 5.0
"""Seconds from one initiation to the next."""
REKEY_ATTEMPT_TIME = 90.0
"""Seconds of such attempts before we give up."""
KEEPALIVE_TIMEOUT = 10.0
"""Seconds to receive without having anything to say, before we say that we are here."""

PADDING = 16
"""Packets are filled up to a multiple of so many bytes, so that their length tells less."""

_NONCE_HEAD = bytes(4)
_ZEROS = tuple(bytes(n) for n in range(PADDING))
_NO_MTU = 1 << 20
_OFFLOAD = OFFLOAD.to_bytes(4, "little")
"""Additional data of these, or a message's type could be changed on its way."""


class Refused(Enum):
    """Why a data message was not opened."""

    TAG = "tag"
    """Not sealed with our key: forged, damaged, or of another keypair."""
    REPLAY = "replay"
    """Sealed with our key, but its counter has been here before, or is too old to tell."""


class Keypair:
    """What one handshake gave: seals what we send and opens what we receive.

    Args:
        local_index: by which the other side names us in its data messages.
        keys: what the handshake derived.
        initiator: whether we began it.
        created: when (CLOCK_BOOTTIME seconds).
    """

    __slots__ = (
        "_counter",
        "_decrypt",
        "_decrypt_into",
        "_encrypt",
        "_encrypt_into",
        "_nonce",
        "counter",
        "created",
        "initiator",
        "local_index",
        "remote_index",
        "suite",
        "window",
    )

    def __init__(
        self, local_index: int, keys: TransportKeys, initiator: bool, created: float
    ) -> None:
        self.local_index = local_index
        self.remote_index = keys.remote_index
        self.initiator = initiator
        self.created = created
        self.counter = 0
        """Of the next packet sealed; it never goes back, or two packets would share a nonce."""
        self.window = ReplayWindow()
        self.suite = suite = keys.suite
        # Bound methods, which keep the ciphers; the keys themselves are not kept.
        sealer = suite.aead(keys.send)
        self._encrypt = sealer.encrypt
        self._encrypt_into = sealer.encrypt_into
        opener = suite.aead(keys.receive)
        self._decrypt = opener.decrypt
        self._decrypt_into = opener.decrypt_into
        self._nonce, self._counter = suite.nonce.pack, suite.counter

    def seal(self, packets: list[bytes], mtu: int) -> list[bytes]:
        """Return a data message for each of *packets*, in order; an empty packet is a keepalive.

        Packets are padded with zeros to a multiple of :data:`PADDING`, but not beyond *mtu*
        bytes (0: no such limit).  At :data:`REJECT_AFTER_MESSAGES` it ends: fewer messages come
        back than packets went in.
        """
        first = self.counter
        if len(packets) > REJECT_AFTER_MESSAGES - first:
            packets = packets[: REJECT_AFTER_MESSAGES - first]
        # Before the first is sealed: whatever happens below, no counter is used twice.
        self.counter = first + len(packets)
        largest = mtu or _NO_MTU
        remote, encrypt = self.remote_index, self._encrypt
        header, nonce = DATA_HEADER.pack, self._nonce
        sealed: list[bytes] = []
        # `encrypt` and a join take 2.2 us for 1400 bytes (32 at a time) and 1.2 for none.
        # `encrypt_into` a buffer of the batch, or into one that is kept and copied from, takes
        # 2.5 and 1.6 at best: the views it needs cost more than the join.
        size, zeros = 0, b""
        for counter, packet in enumerate(packets, first):
            if len(packet) != size:  # than the one before, which is rare
                size = len(packet)
                zeros = _ZEROS[_padding(size, largest)]
            if zeros:
                packet += zeros
            sealed.append(header(DATA, remote, counter) + encrypt(nonce(counter), packet, None))
        return sealed

    def seal_run(self, run: Run) -> list[bytes]:
        """Return the datagrams of *run*, in order; nothing when the keypair is used up."""
        first, count = self.counter, len(run.payloads)
        after = first + count
        if after > REJECT_AFTER_MESSAGES:
            return []
        self.counter = after
        counters = range(first, after)
        # Without a line of Python for each; what is left is the cipher, and about half of it
        # is the call and not the bytes.
        sealed = map(
            self._encrypt, map(self._nonce, counters), run.plaintexts(first), repeat(_OFFLOAD)
        )
        headers = map(DATA_HEADER.pack, repeat(OFFLOAD), repeat(self.remote_index), counters)
        return list(map(add, headers, sealed))

    def seal_slab(self, slab: Slab, shape: Shape) -> Sealed | None:
        """Return the datagrams of the run that *slab* is; None when the keypair is used up."""
        first, count = self.counter, shape.packets(len(slab))
        after = first + count
        if after > REJECT_AFTER_MESSAGES:
            return None
        self.counter = after
        return slab.seal(
            shape, self._encrypt_into, self.remote_index, first, _OFFLOAD, self.suite.order
        )

    def open(self, datagram: bytes) -> bytes | None:
        """Return the packet in a data message, padding included; None when the tag is wrong.

        *datagram* is one that :func:`~pyvpn.wire.datagram.kind_of` calls data.  Replays are
        opened, too: :meth:`receive` is what the data path calls.
        """
        try:
            # A slice and a copy: as a view the same takes longer, and `decrypt_into` too.
            return self._decrypt(_NONCE_HEAD + datagram[self._counter], datagram[16:], None)
        except InvalidTag:
            return None

    def receive(self, datagram: bytes) -> bytes | Refused:
        """Return the packet in a data message as :meth:`open` does, but each only once."""
        try:
            packet = self._decrypt(_NONCE_HEAD + datagram[self._counter], datagram[16:], None)
        except InvalidTag:
            return Refused.TAG
        # After the tag: or a forged counter would shut out the honest ones behind it.
        return packet if self.window.accept(counter_of(datagram)) else Refused.REPLAY

    def receive_all(self, datagrams: list[bytes]) -> list[bytes | Refused]:
        """Do :meth:`receive` for each of *datagrams*, in order."""
        decrypt, number_of = self._decrypt, int.from_bytes
        where, order = self._counter, self.suite.order
        results: list[bytes | Refused] = []
        counters: list[int] = []
        for datagram in datagrams:
            counter = datagram[where]
            try:
                results.append(decrypt(_NONCE_HEAD + counter, datagram[16:], None))
            except InvalidTag:
                results.append(Refused.TAG)
            else:
                counters.append(number_of(counter, order))
        accepted = self.window.accept_all(counters)
        if not all(accepted):
            verdicts = iter(accepted)
            for index, result in enumerate(results):
                if result is not Refused.TAG and not next(verdicts):
                    results[index] = Refused.REPLAY
        return results

    def receive_run(self, datagrams: list[bytes]) -> tuple[list[int], list[bytes], list[Refused]]:
        """Open *datagrams* of the type OFFLOAD, each only once.

        Returns:
            Counters and payloads of those that opened, as :func:`pyvpn.wire.rebuild.rebuild`
            takes them, and why each of the others did not.
        """
        counters = [int.from_bytes(datagram[8:16], "little") for datagram in datagrams]
        nonces = map(self._nonce, counters)
        sealed = [datagram[16:] for datagram in datagrams]
        refused: list[Refused] = []
        try:
            payloads = list(map(self._decrypt, nonces, sealed, repeat(_OFFLOAD)))
        except InvalidTag:
            counters, payloads = self._open_each(counters, sealed)
            refused = [Refused.TAG] * (len(datagrams) - len(payloads))
        accepted = self.window.accept_all(counters)
        if not all(accepted):
            refused += [Refused.REPLAY] * accepted.count(False)
            counters = list(compress(counters, accepted))
            payloads = list(compress(payloads, accepted))
        return counters, payloads, refused

    def receive_packed(self, packed: Packed, kind: int) -> list[int]:
        """Open all of *packed*, of the type *kind*, at once, and return their counters.

        Nothing, and nothing is changed, unless they count up from beyond all that came before
        and every one opens: what :meth:`receive_all` or :meth:`receive_run` is for then.
        """
        counters = packed.counters()
        first, count = counters[0], len(counters)
        if counters != list(range(first, first + count)) or not self.window.is_ahead(first, count):
            return []
        try:
            packed.open(
                self._decrypt_into, _OFFLOAD if kind == OFFLOAD else None, self.suite.order
            )
        except InvalidTag:
            return []
        self.window.accept_all(counters)
        return counters

    def _open_each(
        self, counters: list[int], sealed: list[bytes]
    ) -> tuple[list[int], list[bytes]]:
        """Open those that open."""
        decrypt, nonce = self._decrypt, self._nonce
        opened: list[int] = []
        payloads: list[bytes] = []
        for counter, each in zip(counters, sealed, strict=True):
            try:
                payloads.append(decrypt(nonce(counter), each, _OFFLOAD))
            except InvalidTag:
                continue
            opened.append(counter)
        return opened, payloads


def _padding(size: int, mtu: int) -> int:
    """Return how many zeros to add to a packet of *size* bytes."""
    # A packet beyond the MTU (which somebody has just made smaller) is padded like its last
    # piece, as the kernel does.
    last = size if size <= mtu else size % mtu
    return min(mtu, last + -last % PADDING) - last
