"""Real sessions of two Linux kernels: with their random choices, our datagrams are theirs.

To check against the captures themselves, not only against their digests, get the two files
(:mod:`tests.vectors.wireguard_captures` says from where) and run this with
``PYVPN_WIRESHARK_CAPTURES=folder``.
"""

from __future__ import annotations

import os
import struct
from hashlib import sha256
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.cookie import CookieChecker, CookieJar
from pyvpn.crypto.keypair import Keypair
from pyvpn.crypto.noise import InitiatorHandshake, open_static
from pyvpn.wire.datagram import DATA, INITIATION, MAC2, RESPONSE, Initiation, Response, kind_of
from tests.vectors.wireguard_captures import (
    CAPTURES,
    LEFT,
    MTU,
    PUBLISHED_PUBLIC,
    RIGHT,
    Message,
    Session,
)


class Replay:
    """One session over again: both ends are ours, every random choice is theirs."""

    def __init__(self, session: Session) -> None:
        initiator, responder = session.initiator, session.responder
        begun = InitiatorHandshake.begin(
            initiator,
            responder.public,
            initiator.shared(responder.public) or b"",
            session.indices[0],
            session.ephemerals[0],
            session.timestamp,
        )
        assert begun is not None
        state, message = begun
        self.initiation = CookieJar(responder.public).add_macs(message, 0.0)

        half = open_static(Initiation.parse(self.initiation), responder)
        assert half is not None
        self.claimed = half.peer_public
        self.timestamp = half.open_timestamp(responder.shared(initiator.public) or b"")
        answer = half.respond(
            initiator.public, session.psk, session.indices[1], session.ephemerals[1]
        )
        assert answer is not None
        their_keys, message = answer
        self.response = CookieJar(initiator.public).add_macs(message, 0.0)

        our_keys = state.finish(Response.parse(self.response), initiator, session.psk)
        assert our_keys is not None
        self.initiator = Keypair(session.indices[0], our_keys, True, 0.0)
        self.responder = Keypair(session.indices[1], their_keys, False, 0.0)

    def seal(self, message: Message, packet: bytes) -> bytes:
        """Seal *packet* as the sender of *message* did."""
        keypair = self.initiator if message.from_initiator else self.responder
        keypair.counter = message.counter
        return keypair.seal([packet], MTU)[0]

    def open(self, message: Message, datagram: bytes) -> bytes | None:
        """Open *datagram* as the receiver of *message* would."""
        keypair = self.responder if message.from_initiator else self.initiator
        return keypair.open(datagram)


REPLAYS = {
    message.session: Replay(message.session)
    for messages in CAPTURES.values()
    for message in messages
}


def digest_of(datagram: bytes) -> str:
    """SHA-256, in hex."""
    return sha256(datagram).hexdigest()


def datagrams_in(path: Path) -> list[bytes]:
    """The UDP payloads of a capture file (little endian, Ethernet, IPv4)."""
    data, at, found = path.read_bytes(), 24, []
    while at < len(data):
        (size,) = struct.unpack_from("<8xI", data, at)
        ip = data[at + 16 + 14 : at + 16 + size]
        udp = ip[(ip[0] & 15) * 4 :]
        found.append(udp[8 : struct.unpack_from("!4xH", udp)[0]])
        at += 16 + size
    return found


class CaptureTests(SynchronousTestCase):
    """What the kernel sent, byte for byte."""

    def test_public_keys(self) -> None:
        """Our public keys for the published private ones are the published ones."""
        self.assertEqual(PUBLISHED_PUBLIC, (LEFT.public, RIGHT.public))

    def test_initiations(self) -> None:
        """Four initiations come out as captured, mac1 included, and open to what is in them."""
        messages = self.messages(INITIATION)
        self.assertEqual(4, len(messages))
        for message in messages:
            replay, session = REPLAYS[message.session], message.session
            self.assertEqual(message.sha256, digest_of(replay.initiation))
            self.assertEqual(session.initiator.public, replay.claimed)
            self.assertEqual(session.timestamp, replay.timestamp)

    def test_responses(self) -> None:
        """Four responses come out as captured, two of them with a preshared key."""
        messages = self.messages(RESPONSE)
        self.assertEqual(4, len(messages))
        for message in messages:
            self.assertEqual(message.sha256, digest_of(REPLAYS[message.session].response))

    def test_data(self) -> None:
        """Sixteen packets, described by their fields, are sealed as captured, and open again."""
        messages = [message for message in self.messages(DATA) if message.packet is not None]
        self.assertEqual(16, len(messages))
        for message in messages:
            packet = message.packet or b""
            datagram = REPLAYS[message.session].seal(message, packet)
            self.assertEqual(message.sha256, digest_of(datagram))
            padded = packet + bytes(-len(packet) % 16)
            self.assertEqual(padded, REPLAYS[message.session].open(message, datagram))

    def test_another_choice(self) -> None:
        """The digests see a difference: another index, counter or packet is another datagram."""
        for message in self.messages(DATA):
            if message.packet:
                replay = REPLAYS[message.session]
                for other in (
                    replay.seal(message._replace(counter=message.counter + 1), message.packet),
                    replay.seal(message, message.packet[:-1] + b"\xff"),
                    replay.seal(
                        message._replace(from_initiator=not message.from_initiator),
                        message.packet,
                    ),
                ):
                    self.assertNotEqual(message.sha256, digest_of(other))

    def test_whole_captures(self) -> None:
        """All datagrams in order, as far as they can be made here; with the files, all of them.

        The files (see this module's docstring) add the two packets of TLS that no fields
        describe, and the proof that the digests are those of the captures.
        """
        folder = os.environ.get("PYVPN_WIRESHARK_CAPTURES")
        for name, messages in CAPTURES.items():
            ours = [self.ours(message) for message in messages]
            for message, datagram in zip(messages, ours, strict=True):
                if datagram is not None:
                    self.assertEqual(message.sha256, digest_of(datagram))
            if folder is not None:
                self.compare(messages, ours, datagrams_in(Path(folder, name)))

    # -- the parts of the above

    def messages(self, kind: int) -> list[Message]:
        """All messages of *kind*, of both captures."""
        return [
            message
            for messages in CAPTURES.values()
            for message in messages
            if message.kind == kind
        ]

    def ours(self, message: Message) -> bytes | None:
        """The datagram as we make it; None where we do not know the packet inside."""
        replay = REPLAYS[message.session]
        if message.kind == INITIATION:
            return replay.initiation
        if message.kind == RESPONSE:
            return replay.response
        return None if message.packet is None else replay.seal(message, message.packet)

    def compare(
        self, messages: list[Message], ours: list[bytes | None], captured: list[bytes]
    ) -> None:
        """Hold each datagram of a file against ours, and open and seal again what it has."""
        for message, our, datagram in zip(messages, ours, captured, strict=True):
            self.assertEqual(message.sha256, digest_of(datagram))
            self.assertEqual(message.kind, kind_of(datagram))
            if message.kind == DATA:
                replay = REPLAYS[message.session]
                packet = replay.open(message, datagram)
                assert packet is not None, f"counter {message.counter} did not open"
                self.assertEqual(datagram, replay.seal(message, packet))
            else:
                self.assertEqual(our, datagram)
                receiver = message.session.responder
                if message.kind == RESPONSE:
                    receiver = message.session.initiator
                self.assertTrue(CookieChecker(receiver.public, bytes).mac1_valid(datagram))
                self.assertEqual(bytes(16), datagram[MAC2])
