"""What a client keeps of its server, and that nothing in the file can hurt."""

from __future__ import annotations

import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from pyvpn.client.memory import Memory
from pyvpn.wire.messages import Code, RegisterAnswer

ANSWER = RegisterAnswer(
    success=True,
    code=Code.OK,
    address4="10.73.0.2/24",
    server4="10.73.0.1",
    routes=("192.168.77.0/24",),
    wireguard_key="k",
    wireguard_endpoints=("198.51.100.1:51820",),
    tunnel_port=51820,
)


class MemoryTests(SynchronousTestCase):
    """A file in the state directory."""

    def setUp(self) -> None:
        self.place = Path(self.mktemp())
        self.place.mkdir(mode=0o700)

    def file(self) -> Path:
        [found] = self.place.iterdir()
        return found

    def test_kept(self) -> None:
        """It is there again at the next start, for that server only, and for us alone."""
        Memory(self.place, "one").keep(ANSWER)
        self.assertEqual(ANSWER, Memory(self.place, "one").recall())
        self.assertIsNone(Memory(self.place, "two").recall())
        self.assertEqual(0o600, stat.S_IMODE(self.file().stat().st_mode))

    def test_nothing(self) -> None:
        """At the first start there is nothing."""
        self.assertIsNone(Memory(self.place, "one").recall())

    def test_notWrittenTwice(self) -> None:
        """What is there already is not written again."""
        memory = Memory(self.place, "one")
        memory.keep(ANSWER)
        before = self.file().stat().st_ino
        memory.keep(ANSWER)
        self.assertEqual(before, self.file().stat().st_ino)

    def test_openToOthers(self) -> None:
        """A file that others can write is not believed."""
        Memory(self.place, "one").keep(ANSWER)
        self.file().chmod(0o666)
        self.assertIsNone(Memory(self.place, "one").recall())

    def test_noSpace(self) -> None:
        """A disk that takes nothing is no reason to stop."""
        Memory(self.place / "missing", "one").keep(ANSWER)
        self.assertIsNone(Memory(self.place / "missing", "one").recall())

    @given(st.binary(max_size=200) | st.integers(0, 300).map(lambda n: ANSWER.to_bytes()[:n]))
    def test_anything(self, data: bytes) -> None:
        """Whatever is in the file, it is an answer or nothing."""
        Memory(self.place, "one").keep(ANSWER)
        self.file().write_bytes(data)
        Memory(self.place, "one").recall()
