"""docs/protocol.rst says what the program does: examples, codes, commands, fields, limits."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto import suite
from pyvpn.wire import command, datagram, json_object, messages, native, offload, segments
from pyvpn.wire.command import Command, encode_frame, encode_version
from pyvpn.wire.messages import (
    Answer,
    ChosenCarrier,
    Code,
    LogIn,
    LogInAnswer,
    Message,
    Notice,
    PlainAnswer,
    Register,
    RegisterAnswer,
    Settings,
    encode_plain_address,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.rst"


class ProtocolDocumentTests(SynchronousTestCase):
    """A stranger can rely on the document."""

    def setUp(self) -> None:
        """Read the document."""
        self.text = DOCUMENT.read_text("utf-8")

    def test_examples(self) -> None:
        """Every example is, byte for byte, what this program sends."""
        found = re.findall(r"^    [CS]: ((?:[0-9a-f]{2} ?)+)(?:  |$)", self.text, re.MULTILINE)

        self.assertEqual(
            [
                encode_version(command.VERSION),
                bytes([command.VersionAnswer.ACCEPTED]),
                encode_frame(Command.HEARTBEAT, 7, b"*"),
                encode_frame(Command.HEARTBEAT, 1),
                encode_frame(Command.ANSWER, 1),
                encode_frame(Command.LOG_IN, 1, b"{}"),
                encode_version(command.PLAIN_VERSION),
                bytes([command.VersionAnswer.ACCEPTED]),
                encode_frame(Command.REGISTER, 7, encode_plain_address(bytes([182, 1, 1, 101]))),
            ],
            [bytes.fromhex(each) for each in found],
        )
        self.assertIn(PlainAnswer(True, "", "192.168.1.0/24").to_bytes().decode(), self.text)

    def test_codes(self) -> None:
        """The table of codes has every code, each once, and no other."""
        table = self.text.split("\nCodes\n", 1)[1].split("\nOrder of states\n")[0]

        self.assertEqual(list(Code), re.findall(r"^``([a-z-]+)``", table, re.MULTILINE))

    def test_commands(self) -> None:
        """The table of commands has every command with its number, and no other."""
        table = self.text.split("\nCommands\n", 1)[1].split("A server answers a question")[0]
        found = re.findall(r"^(-?\d+) +([a-z ]+?)  ", table, re.MULTILINE)

        self.assertEqual(
            [(str(int(each)), each.name.lower().replace("_", " ")) for each in Command], found
        )

    def test_native_messages(self) -> None:
        """The table of what is said inside the tunnel has every kind with its number."""
        table = self.text.split("\nData channel\n", 1)[1].split("**The key is a claim")[0]
        found = re.findall(r"^(\d+) +([a-z ]+?)  ", table, re.MULTILINE)
        kinds = [(str(int(each)), each.name.lower().replace("_", " ")) for each in native.Kind]

        self.assertEqual(kinds, found)

    def test_fields(self) -> None:
        """Each message's table has its keys in order, with their defaults, and no other."""
        kinds: tuple[type[Message], ...]
        kinds = (LogIn, LogInAnswer, Register, RegisterAnswer, ChosenCarrier)
        kinds += (Settings, Notice, Answer)
        spelled = {"": '``""``', "tcp": "``tcp``", (): "``[]``", 0.0: "0", MISSING: "needed"}
        for kind in kinds:
            _, _, rest = self.text.partition(f"\n{kind.__name__}")
            while rest and not re.match(r"[ :]", rest):
                _, _, rest = rest.partition(f"\n{kind.__name__}")
            table = rest.split("=\nkey ", 1)[1].split("\n\n", 1)[0]
            found = re.findall(r"^``(\w+)`` +\w+ +(\S+)", table, re.MULTILINE)

            self.assertEqual(
                [
                    (each.name, spelled[each.default])
                    for each in fields(kind)
                    if each.name != "unknown"
                ],
                found,
                kind.__name__,
            )

    def test_offload(self) -> None:
        """The numbers that a receiver of offload payloads goes by are the program's."""
        section = self.text.split("\nOffload payloads\n", 1)[1].split("\nSettings, notices")[0]
        words = " ".join(section.split())
        for each in (
            f"names ``{offload.CAPABILITY}`` among",
            f"messages of type {datagram.OFFLOAD} ",
            f"S is at least {offload.LEAST_SEGMENT} and N at most {segments.MOST_SEGMENTS};",
            f"S is at least 1 and N at most {segments.MOST_DATAGRAMS}",
            f"H + L is at most {offload.LARGEST}",
            f"padded with up to {offload.PADDING - 1} zeros",
        ):
            self.assertIn(each, words)

    def test_cipher(self) -> None:
        """The name of the other suite, the word for it, and the nonces are the program's."""
        section = self.text.split("\nCipher\n", 1)[1].split("\nSettings, notices")[0]
        words = " ".join(section.split())
        self.assertIn(f"names ``{suite.AES_CAPABILITY}`` among", words)
        for each in (suite.CHACHA, suite.AES_GCM):
            self.assertIn(each.construction.decode(), words)
            self.assertIn(f"nonce, {each.name} {each.nonce.pack(258).hex(' ')}", words)
        self.assertIn(f"in the datagram {(258).to_bytes(8, 'little').hex(' ')}", words)

    def test_limits(self) -> None:
        """The numbers in the text are the program's."""
        for number in (
            f"before the log-in succeeded: {command.LIMIT_BEFORE_LOG_IN}",
            f"afterwards: {command.LIMIT}",
            f"at most {json_object.LIMIT} bytes, nested at most {json_object.DEPTH} deep",
            f"cut after {messages.NAME_CHARACTERS} characters",
            f"*message* after {messages.MESSAGE_CHARACTERS}",
            f"at most {messages.LIST_ITEMS} texts",
            f"at most {messages.PASSWORD_BYTES} bytes in UTF-8",
        ):
            self.assertIn(number, " ".join(self.text.split()))
