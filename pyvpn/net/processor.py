"""What this machine's processor can do, and so which suites are worth speaking."""

from __future__ import annotations

from pathlib import Path

from twisted.logger import Logger

from pyvpn.crypto.suite import AES_GCM, CHACHA, Suite

_log = Logger()

CPUINFO = Path("/proc/cpuinfo")
_WANTED = ({"aes", "pclmulqdq"}, {"aes", "pmull"})  # x86, ARM


def has_aes(cpuinfo: str) -> bool:
    """Whether every processor of this ``/proc/cpuinfo`` has instructions for AES and for GCM.

    Without them AES-GCM is slower than ChaCha20-Poly1305, and its look-ups tell of the key.
    """
    lists = [
        set(value.split())
        for name, _, value in (line.partition(":") for line in cpuinfo.splitlines())
        if name.strip() in ("flags", "Features")
    ]
    return bool(lists) and all(any(wanted <= each for wanted in _WANTED) for each in lists)


def suites(cipher: str, cpuinfo: Path = CPUINFO) -> tuple[Suite, ...]:
    """Return what an end with that option ``cipher`` speaks on this machine."""
    if cipher == "auto":
        try:
            if has_aes(cpuinfo.read_text(errors="replace")):
                return CHACHA, AES_GCM
        except OSError as error:
            _log.info("AES-GCM is not used: {why}", why=str(error))
    return (CHACHA,)
