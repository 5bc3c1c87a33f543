"""What a device keeps of its server, so that it can come by UDP alone the next time."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from twisted.logger import Logger

from pyvpn.client.device import certificate_file
from pyvpn.errors import HostError, PeerError, PyvpnError
from pyvpn.net.private_files import read_private, write_private
from pyvpn.wire.messages import RegisterAnswer

_log = Logger()


class Memory:
    """The server's last answer to a registration: its key, its places, our lease, the routes.

    In a file beside the device's certificate.  Whatever is wrong with that file, the next
    registration writes another.

    Args:
        server: from :func:`~pyvpn.client.device.server_name`.
    """

    def __init__(self, state_dir: Path, server: str) -> None:
        self._file = certificate_file(state_dir, server).with_suffix(".session")
        self._kept = b""

    def recall(self) -> RegisterAnswer | None:
        """What was kept; None: nothing that can be used."""
        try:
            self._kept = read_private(self._file) or b""
            answer = RegisterAnswer.from_bytes(self._kept) if self._kept else None
        except PeerError as error:
            _log.warn("{file}: {why}: not used", file=str(self._file), why=str(error))
            return None
        except PyvpnError as error:
            _log.warn("{why}: not used", why=str(error))
            return None
        return answer

    def keep(self, answer: RegisterAnswer) -> None:
        """Keep *answer* instead of what was kept before."""
        data = answer.to_bytes()
        if data == self._kept:
            return
        try:
            write_private(self._file, data)
        except HostError as error:  # it works without, as long as TCP does
            _log.warn("{why}", why=str(error))
        else:
            self._kept = data

    def forget(self) -> None:
        """Keep nothing."""
        self._kept = b""
        with suppress(OSError):
            self._file.unlink(missing_ok=True)
