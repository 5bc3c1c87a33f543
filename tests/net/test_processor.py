"""Which suites a processor makes worth speaking."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.suite import AES_GCM, CHACHA
from pyvpn.net.processor import has_aes, suites

X86 = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Processor with aes in its name
flags\t\t: fpu vme de pse {} sse4_1 sse4_2
bugs\t\t: spectre_v1
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm {} crc32 cpuid
CPU implementer\t: 0x41
"""


class ProcessorTests(SynchronousTestCase):
    """What /proc/cpuinfo says."""

    def test_x86(self) -> None:
        """It takes both instructions, by their whole names."""
        self.assertTrue(has_aes(X86.format("pclmulqdq aes")))
        for flags in ("aes", "pclmulqdq", "vaes vpclmulqdq", ""):
            self.assertFalse(has_aes(X86.format(flags)), flags)

    def test_arm(self) -> None:
        """Likewise; a Raspberry Pi 4 has neither."""
        self.assertTrue(has_aes(ARM.format("aes pmull sha1 sha2")))
        for flags in ("aes", "pmull", ""):
            self.assertFalse(has_aes(ARM.format(flags)), flags)

    def test_all_of_them(self) -> None:
        """One processor without it is enough: the process may run there."""
        good, bad = X86.format("pclmulqdq aes"), X86.format("aes")
        self.assertTrue(has_aes(good * 2))
        self.assertFalse(has_aes(good + bad))

    def test_others(self) -> None:
        """What says nothing of it does not have it."""
        self.assertFalse(has_aes(""))
        self.assertFalse(has_aes("isa\t\t: rv64imafdc\n\n:::\nflags"))

    def test_suites(self) -> None:
        """The option counts, and then the processor."""
        good, bad = Path(self.mktemp()), Path(self.mktemp())
        good.write_text(X86.format("pclmulqdq aes"))
        bad.write_bytes(b"\xff\n" + ARM.format("").encode())
        self.assertEqual((CHACHA, AES_GCM), suites("auto", good))
        self.assertEqual((CHACHA,), suites("chacha20-poly1305", good))
        self.assertEqual((CHACHA,), suites("auto", bad))

    def test_unreadable(self) -> None:
        """Where there is no such file, AES-GCM is not used, and nothing fails."""
        self.assertEqual((CHACHA,), suites("auto", Path(self.mktemp())))
