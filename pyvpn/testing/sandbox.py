"""A network of our own to try things in: namespaces that vanish with this process.

:func:`enter` moves the running process out of the host's network for good, with or without
root. Everything made after it (namespaces, links, rules, nft tables, files below ``/run``)
belongs to the sandbox, so it is gone when the last process in it ends, also on ``kill -9``.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from pyvpn.errors import HostError, Misuse

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
MS_NOSUID_NODEV = 2 | 4
MS_BIND = 0x1000
MS_REC_PRIVATE = 0x4000 | 1 << 18

TUN_DEVICE = Path("/dev/net/tun")
NAMES = Path("/run/hosts")  # /etc/hosts of the sandbox, to be written to

# The tools of a lab, and the Debian package that has each.
PACKAGES = {
    "curl": "curl",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ping": "iputils-ping",
    "setpriv": "util-linux",
    "wg": "wireguard-tools",
    "wireguard-go": "wireguard-go",
}
LAB_TOOLS = ("ip", "nft", "ping", "curl", "nsenter", "setpriv")

_libc = ctypes.CDLL(None, use_errno=True)
_entered: bool | None = None  # what enter() answered


def environment() -> dict[str, str]:
    """Return the environment for programs in the sandbox: our own Python and pyvpn come first.

    So the lab runs the pyvpn it belongs to, installed or not. The ``sbin`` folders are added
    because Debian keeps ``nft`` there and leaves them off the path of ordinary users.
    """
    path = [os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]
    path += ["/usr/local/sbin", "/usr/sbin", "/sbin"]
    modules = [str(Path(__file__).parents[2])]
    if inherited := os.environ.get("PYTHONPATH"):
        modules.append(inherited)
    return {
        **os.environ,
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": os.pathsep.join(modules),
        "PYTHONUNBUFFERED": "1",
    }


def missing_tools(names: Iterable[str] = LAB_TOOLS) -> list[str]:
    """Name each tool that is not here with its Debian package, ``"nft (package nftables)"``."""
    path = environment()["PATH"]
    return [
        f"{name} (package {PACKAGES.get(name, name)})"
        for name in names
        if shutil.which(name, path=path) is None
    ]


def check_tools(names: Iterable[str] = LAB_TOOLS) -> None:
    """Raise HostError naming every tool that is not here, and the line that installs them all."""
    names = list(names)
    if missing := missing_tools(names):
        path = environment()["PATH"]
        wanted = {PACKAGES.get(n, n) for n in names if shutil.which(n, path=path) is None}
        raise HostError(
            f"missing: {', '.join(missing)}. On Debian and Ubuntu: "
            f"sudo apt-get install {' '.join(sorted(wanted))}"
        )


def tun_problem() -> str | None:
    """Say why no TUN device can be opened here, in words and with the cure; None if it can."""
    if not TUN_DEVICE.exists():
        return (
            f"{TUN_DEVICE} does not exist: run 'sudo modprobe tun', or start the container "
            f"with --device {TUN_DEVICE}"
        )
    try:
        os.close(os.open(TUN_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        mode = TUN_DEVICE.stat().st_mode & 0o777
        return (
            f"{TUN_DEVICE} cannot be opened ({error.strerror}; its mode is {mode:04o}): "
            f"run this as root, or open it for everybody, as most distributions do: "
            f"'sudo chmod 0666 {TUN_DEVICE}'"
        )
    return None


def enter() -> bool:
    """Move this process into network and mount namespaces of its own; once, and for good.

    Without the rights for that, a user namespace is made first, in which we are root. There is
    no way back, so a program calls this when it has nothing left to do on the host's network.

    Returns:
        whether a user namespace was needed.

    Raises:
        HostError: the kernel or the container does not allow it; the text says what to change.
        Misuse: this process has threads: the others would stay behind in the host's network.
    """
    global _entered
    if _entered is not None:
        return _entered
    if len(os.listdir("/proc/self/task")) > 1:
        raise Misuse("enter the sandbox before anything starts a thread")
    uid, gid, rootless = os.geteuid(), os.getegid(), False
    try:
        try:
            _unshare(CLONE_NEWNET | CLONE_NEWNS)
        except PermissionError:
            rootless = True
            _unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        _mount(b"none", b"/", None, MS_REC_PRIVATE)  # or the host would see our mounts
        _mount(b"tmpfs", b"/run", b"tmpfs", MS_NOSUID_NODEV)
        os.mkdir("/run/netns", 0o755)
        NAMES.write_bytes(Path("/etc/hosts").read_bytes())
        _mount(bytes(NAMES), b"/etc/hosts", None, MS_BIND)
        if os.path.exists("/etc/resolv.conf"):  # else it pointed below the old /run
            # The host's name servers cannot be reached from here: without them a look-up fails
            # at once instead of after ten seconds.
            Path("/run/resolv.conf").touch()
            _mount(b"/run/resolv.conf", b"/etc/resolv.conf", None, MS_BIND)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, env=environment())
    except (OSError, subprocess.SubprocessError) as error:
        raise HostError(f"no namespaces for the lab ({error}): {_cure()}") from error
    _entered = rootless
    return rootless


def setns(descriptor: int) -> None:
    """Move the calling thread into the network namespace behind *descriptor* (raises OSError)."""
    if sys.version_info >= (3, 12):
        os.setns(descriptor, CLONE_NEWNET)
    else:
        _checked(_libc.setns, descriptor, CLONE_NEWNET)


def _unshare(flags: int) -> None:
    if sys.version_info >= (3, 12):
        os.unshare(flags)
    else:
        _checked(_libc.unshare, flags)


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int) -> None:
    _checked(_libc.mount, source, target, kind, ctypes.c_ulong(flags), None)


def _checked(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _cure() -> str:
    """Say what most likely forbids namespaces here, and what lifts it."""
    for path, forbidding, cure in (
        ("user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=10000"),
        (
            "kernel/unprivileged_userns_clone",
            "0",
            "sudo sysctl kernel.unprivileged_userns_clone=1",
        ),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ):
        try:
            found = Path("/proc/sys", path).read_text().strip()
        except OSError:
            continue  # this kernel does not have that switch
        if found == forbidding:
            return f"run it as root, or allow user namespaces: '{cure}'"
    return "run it as root; in a container, start that with --privileged"
