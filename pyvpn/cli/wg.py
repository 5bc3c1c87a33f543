"""``pyvpn wg``: a WireGuard interface, in the place of wireguard-go."""

from __future__ import annotations

import os
import re
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

import click

from pyvpn.errors import ConfigError, HostError, PyvpnError

_NAME = re.compile(r"[^/:\s\0]{1,15}")
_STARTED = b"started"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-f", "--foreground", is_flag=True, help="Do not become a daemon.")
@click.argument("interface", metavar="IFNAME")
def wg(foreground: bool, interface: str) -> None:
    """Make the WireGuard interface IFNAME, for `wg` and `wg-quick` to configure.

    It does what wireguard-go does, and needs no WireGuard in the kernel. It returns when the
    interface is there; the interface then stays until it is deleted.

    \b
    Example:  pyvpn wg wg0
              wg set wg0 listen-port 51820 private-key /etc/wireguard/key
              wg set wg0 peer KEY allowed-ips 10.0.0.2/32 endpoint 192.0.2.1:51820
              ip address add 10.0.0.1/24 dev wg0
              ip link set wg0 up
              wg show wg0
              ip link delete wg0          ends it
    With wg-quick:
              WG_QUICK_USERSPACE_IMPLEMENTATION=pyvpn-wg wg-quick up wg0
              wg-quick down wg0

    \b
    LOG_LEVEL=verbose, error (the default) or silent says what goes to standard error;
    a daemon has one only if LOG_LEVEL is set.
    WG_PROCESS_FOREGROUND=1 is the same as --foreground.
    """
    if not _NAME.fullmatch(interface) or interface in (".", "..") or not interface.isascii():
        raise ConfigError(
            f"{interface!r} cannot be an interface: 1 to 15 characters, no space, slash or colon"
        )
    if foreground or os.environ.get("WG_PROCESS_FOREGROUND") == "1":
        _be(interface)
    else:
        _start_daemon(interface)


def main() -> None:
    """Run the console script ``pyvpn-wg``, which takes the same arguments."""
    try:
        wg.main(prog_name="pyvpn-wg", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(1)
    except PyvpnError as error:
        sys.exit(f"Error: {error}")


def _be(interface: str, tell: int | None = None) -> None:
    """Be the device; write to the descriptor *tell* when it is there."""
    from pyvpn.wg.program import begin_logging, run

    def started() -> None:
        if tell is not None:
            with suppress(OSError):  # nobody waits any more
                os.write(tell, _STARTED)
            os.close(tell)

    begin_logging(os.environ.get("LOG_LEVEL", ""))
    run(interface, started)


def _start_daemon(interface: str) -> None:
    """Return when a process of its own is the device.

    Raises:
        HostError: it could not become it; the text is that process's own.
    """
    heard, tell = os.pipe()
    if os.fork() == 0:
        os.close(heard)
        _be_daemon(interface, tell)
    os.close(tell)
    with os.fdopen(heard, "rb") as pipe:
        said = pipe.read()
    if said != _STARTED:
        raise HostError(said.decode(errors="replace") or f"{interface}: the daemon ended at once")


def _be_daemon(interface: str, tell: int) -> NoReturn:
    status = 1
    try:
        os.setsid()
        os.chdir("/")
        # Whoever waits for the end of a pipe of the caller's must not wait for ours.
        os.closerange(3, tell)
        os.closerange(tell + 1, os.sysconf("SC_OPEN_MAX"))
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        if (os.environ.get("LOG_LEVEL") or "silent") == "silent":
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        os.close(nowhere)
        _be(interface, tell)
        status = 0
    except PyvpnError as error:
        os.write(tell, str(error).encode())
    except BaseException:  # noqa: BLE001 - a bug: the shell that waits is the place to say so
        with suppress(OSError):  # nobody waits any more
            os.write(tell, traceback.format_exc()[-4000:].encode())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
