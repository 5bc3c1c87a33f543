"""pyvpn at work in the lab: the real programs, from real configuration files."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pyvpn.testing import lab as places
from pyvpn.testing.lab import Lab
from pyvpn.testing.namespace import wait_for_line

PASSWORD = "correct horse battery staple"  # noqa: S105 - of people who exist in the lab only


@dataclass(frozen=True)
class Program:
    """One of our programs, running; *seconds* may pass until its log has a line."""

    process: subprocess.Popen[bytes]
    config: Path
    log: Path

    def says(self, pattern: str, seconds: float = 10) -> re.Match[str]:
        """Wait until a line of the log matches *pattern*; HostError if none does."""
        return wait_for_line(self.log, pattern, seconds, self.process)


def start_server(
    lab: Lab,
    *,
    host: str = "server",
    name: str = "server",
    endpoint: str = places.SERVER_ADDRESS,
    more: str = "",
) -> Program:
    """Start ``vpnserver`` on *host*, its state kept in the lab's folder under *name*.

    *more* is added to the file: further lines of ``[server]``, then further sections. A second
    start with the same name finds the state of the first.
    """
    config = lab.write(
        f"{name}.ini",
        f"[server]\nstate_dir = {lab.folder / name}\npublic_endpoints = {endpoint}\n{more}",
    )
    return _start(lab, host, name, "vpnserver", config)


def add_user(
    lab: Lab, server: Program, user: str, password: str = PASSWORD, *, host: str = "server"
) -> None:
    """Make an account, as an administrator at *host* would; the server may be running."""
    pyvpn = ["python", "-c", "from pyvpn.cli import main; main()"]  # also where not installed
    add = [*pyvpn, "user", "add", user, "--config", str(server.config)]
    lab.run(host, add, input=f"{password}\n")


def link(server: Program) -> str:
    """Return the one line a client needs, which the server printed: ``pyvpn://...``."""
    return server.says(r"server = (pyvpn://\S+)")[1]


def start_client(
    lab: Lab,
    server_link: str,
    user: str,
    *,
    host: str = "laptop",
    name: str = "",
    password: str | None = PASSWORD,
    more: str = "",
) -> Program:
    """Start ``vpnclient`` on *host*, its state kept under *name* (else user and host).

    *password* None: the device is known already. *more* is as for :func:`start_server`.
    """
    name = name or f"{user}-{host}"
    text = f"[client]\nserver = {server_link}\nuser = {user}\nstate_dir = {lab.folder / name}\n"
    if password is not None:
        secret = lab.write(f"{name}.password", f"{password}\n")
        text += f"password_file = {secret}\n"
    config = lab.write(f"{name}.ini", text + more)
    return _start(lab, host, name, "vpnclient", config)


def _start(lab: Lab, host: str, name: str, command: str, config: Path) -> Program:
    """Start a twistd command with a fresh log, so that what it says is of this start."""
    log = lab.folder / f"{name}.log"
    log.unlink(missing_ok=True)
    program = ["twistd", "-n", "--pidfile=", command, "--config", str(config)]
    return Program(lab.start(host, program, log), config, log)
