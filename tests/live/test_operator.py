"""The mistakes of a new user, made with the real commands: each gets one line that helps.

"One line" is counted without twistd's own log lines ("starting up", "reactor class", which port).
Status 1, nothing left behind, never a traceback.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyvpn.testing.lab import SERVER_ADDRESS, Lab

PIN = "sha256:" + "A" * 43
SECRET = "marker-of-a-password"
TWISTD_S_OWN = re.compile(r"UnixAppLogger|\] \S+ starting on \d+|Server Shut Down|\(TCP Port")
STAMP = re.compile(r"^20\S+ \[[^]]*\] ")
NO_CAPABILITIES = [
    "setpriv",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--ambient-caps=-all",
    "--",
]


@dataclass
class Place:
    """A host to make mistakes on, and a folder for the files."""

    lab: Lab
    folder: Path

    def config(self, command: str, *lines: str, mode: int = 0o600) -> Path:
        """A configuration that would work, with further *lines* below it."""
        own = [f"state_dir = {self.folder / 'state'}"]
        if command == "vpnserver":
            head = ["[server]", *own]
        else:
            link = f"pyvpn://anna@{SERVER_ADDRESS}?pin={PIN}"
            head = ["[client]", f"server = {link}", *own]
        path = self.folder / f"{command}.ini"
        path.touch(mode=0o600)
        path.write_text("\n".join([*head, *lines]) + "\n")
        path.chmod(mode)
        return path

    def twistd(self, command: str, config: Path, *options: str) -> list[str]:
        return ["twistd", "-n", *options, command, "--config", str(config)]

    def complaint(self, program: list[str], status: int = 1) -> str:
        """Run *program* on the server's host, which must refuse in one line; return that."""
        ended = self.lab.run("server", program, check=False, timeout=10)
        said = ended.stdout + ended.stderr
        lines = [line for line in said.splitlines() if not TWISTD_S_OWN.search(line)]
        assert ended.returncode == status, said
        assert len(lines) == 1, said
        assert "Traceback" not in said
        assert SECRET not in said
        return STAMP.sub("", lines[0])


@pytest.fixture
def place(lab: Lab, tmp_path: Path) -> Iterator[Place]:
    """Where the mistakes are made; the host must be afterwards what it was before."""
    before = lab.hosts["server"].state()
    yield Place(lab, tmp_path)
    assert lab.hosts["server"].state() == before


def password_lines(command: str) -> list[str]:
    """The lines that a client needs to get further."""
    return [f"password = {SECRET}"] if command == "vpnclient" else []


BOTH = pytest.mark.parametrize("command", ["vpnserver", "vpnclient"])


@contextmanager
def small_disk(folder: Path, *, full: bool, options: str = "size=64k,mode=700") -> Iterator[None]:
    """A disk of 64 KB at *folder*."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    subprocess.run(mount, check=True)
    try:
        if full:
            fill = ["dd", "if=/dev/zero", f"of={folder / 'fill'}", "bs=1k", "count=100"]
            assert subprocess.run(fill, capture_output=True, check=False).returncode == 1
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# -- configuration


@BOTH
def test_no_configuration(place: Place, command: str) -> None:
    """The missing file is named, and the command that makes one."""
    missing = place.folder / "nowhere.ini"
    said = place.complaint(place.twistd(command, missing))
    how = {
        "vpnserver": f"python3 -m pyvpn.config server > {missing}",
        "vpnclient": f"pyvpn join LINK --config {missing}",
    }
    assert said.startswith(f"pyvpn: {missing}: no such file: make one with  {how[command]}")


def test_the_command_that_makes_one(place: Place) -> None:
    """What the complaint about a missing file says works, and the result is a configuration."""
    config = place.folder / "new.ini"
    made = place.lab.run("server", ["python", "-m", "pyvpn.config", "server"]).stdout
    config.write_text(made)
    config.chmod(0o600)
    config.write_text(made.replace("#mtu = 1420", "mtu = 14200"))
    said = place.complaint(place.twistd("vpnserver", config))
    assert re.search(r"new.ini:\d+: \[tunnel\] mtu = '14200': a whole number from 1280", said)


@BOTH
def test_unreadable(place: Place, command: str) -> None:
    """A file that may not be read: who must be able to."""
    config = place.config(command, mode=0)
    said = place.complaint([*NO_CAPABILITIES, *place.twistd(command, config)])
    assert said == f"pyvpn: {config}: permission denied: user id 0 must be able to read it"


@BOTH
def test_unknown_option(place: Place, command: str) -> None:
    """A misspelt option is shown with its line and the right spelling."""
    config = place.config(command, "[tunnel]", "devise = pyvpn7")
    said = place.complaint(place.twistd(command, config))
    line = 4 if command == "vpnserver" else 5
    assert (
        said == f"pyvpn: {config}:{line}: [tunnel] devise: no such option: did you mean 'device'?"
    )


def test_unknown_command_option(place: Place) -> None:
    """A misspelt option of the command is named below the help, which has an example."""
    program = ["twistd", "-n", "vpnserver", "--confg", "x"]
    ended = place.lab.run("server", program, check=False)
    assert ended.returncode == 1
    assert ended.stdout.endswith("option --confg not recognized\n")
    assert "twistd -n vpnserver --config" in ended.stdout


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_password_for_all_to_read(place: Place, mode: int) -> None:
    """A configuration with a password that others may read: how to close it."""
    config = place.config("vpnclient", f"password = {SECRET}", mode=mode)
    said = place.complaint(place.twistd("vpnclient", config))
    assert said.endswith(f"'***': a file that nobody else can read: chmod 600 {config}")


def test_password_file_for_all_to_read(place: Place) -> None:
    """The same for a password in a file of its own, also one that is missing."""
    secret = place.folder / "password"
    config = place.config("vpnclient", f"password_file = {secret}")
    said = place.complaint(place.twistd("vpnclient", config))
    assert said.endswith(f"'{secret}': a file that can be read (No such file or directory)")
    secret.write_text(f"{SECRET}\n")
    secret.chmod(0o640)
    said = place.complaint(place.twistd("vpnclient", config))
    assert said.endswith(f"chmod 600 {secret}")


def test_nopassword_lines(place: Place) -> None:
    """Without password, and with nobody to ask: where it may be written."""
    said = place.complaint(place.twistd("vpnclient", place.config("vpnclient")))
    assert "a password is needed: set password_file in [client], or start once at a term" in said


def test_shed_privileges(place: Place) -> None:
    """--uid is refused, with what to use instead."""
    config = place.config("vpnserver")
    said = place.complaint(place.twistd("vpnserver", config, "--uid", "12345"))
    assert re.search(r"--uid .*CAP_NET_ADMIN.*etc/systemd.*setpriv --reuid", said)


# -- the host


@BOTH
def test_no_capability(place: Place, command: str) -> None:
    """Without CAP_NET_ADMIN: that it is needed, and who grants it."""
    config = place.config(command, *password_lines(command))
    said = place.complaint([*NO_CAPABILITIES, *place.twistd(command, config)])
    assert "that needs root or CAP_NET_ADMIN (the systemd units grant it)" in said


@BOTH
def test_no_tun_device(place: Place, command: str) -> None:
    """Without /dev/net/tun: how to load the driver, or hand it to a container."""
    program = place.twistd(command, place.config(command, *password_lines(command)))
    hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh"]
    said = place.complaint([*hide, *program])
    assert "/dev/net/tun is not there: load the driver with  modprobe tun" in said
    assert "--device /dev/net/tun" in said


def test_no_nft(place: Place) -> None:
    """Without nft: which package has it, and how to do without."""
    program = place.twistd("vpnserver", place.config("vpnserver"))
    script = 'for d in /usr/sbin /usr/local/sbin; do mount -t tmpfs none $d; done; exec "$@"'
    said = place.complaint(["unshare", "--mount", "sh", "-c", script, "sh", *program])
    assert said == (
        "pyvpn: nft is missing: install the package nftables, or write  [firewall] manage = no  "
        "and do what it does by other means"
    )


@BOTH
def test_port_and_address(place: Place, command: str) -> None:
    """A listening address that is not ours, a name that is no device: what would be right."""
    if command == "vpnserver":
        config = place.config(command, "listen = 192.0.2.77:51820")
        said = place.complaint(place.twistd(command, config))
        assert "192.0.2.77 port 51820: Cannot assign requested address: listen = ... takes" in said
        config = place.config(command, "listen = 443")
        said = place.complaint([*NO_CAPABILITIES, *place.twistd(command, config)])
        assert said.endswith("ports below 1024 need root or CAP_NET_BIND_SERVICE")
    config = place.config(command, *password_lines(command), "[tunnel]", "device = lan")
    said = place.complaint(place.twistd(command, config))
    assert "lan: an interface of that name exists and is not a TUN" in said


def test_own_network(place: Place) -> None:
    """Addresses for clients that are the LAN's own: which interface has them."""
    config = place.config("vpnserver", "[tunnel]", "network4 = 192.168.77.0/24")
    said = place.complaint(place.twistd("vpnserver", config))
    assert said.endswith(
        f"{config}:4: [tunnel] network4 = 192.168.77.0/24: a network that this host is not in "
        "itself (its interface lan is in 192.168.77.0/24)"
    )


# -- the state directory


@BOTH
def test_state_dir_read_only(place: Place, command: str) -> None:
    """A state directory on a disk that cannot be written to."""
    config = place.config(command, *password_lines(command))
    with small_disk(place.folder / "state", full=False, options="ro,size=64k,mode=700"):
        said = place.complaint(place.twistd(command, config))
    assert f"{place.folder / 'state'}: cannot be used as state directory: Read-only file" in said


@BOTH
def test_state_dir_forbidden(place: Place, command: str) -> None:
    """A state directory where we may not write."""
    (place.folder / "state").mkdir(mode=0o500)
    config = place.config(command, *password_lines(command))
    said = place.complaint([*NO_CAPABILITIES, *place.twistd(command, config)])
    assert "cannot be used as state directory: Permission denied; run as root, or name an" in said


@BOTH
def test_state_dir_is_a_file(place: Place, command: str) -> None:
    """A state directory that is none."""
    (place.folder / "state").write_text("")
    config = place.config(command, *password_lines(command))
    said = place.complaint(place.twistd(command, config))
    assert "cannot be used as state directory: it is a file; name another" in said


@BOTH
def test_state_dir_open(place: Place, command: str) -> None:
    """A state directory in which others could exchange the keys."""
    (place.folder / "state").mkdir()
    (place.folder / "state").chmod(0o777)
    config = place.config(command, *password_lines(command))
    said = place.complaint(place.twistd(command, config))
    assert said.endswith(f"can be written by others: run `chmod 700 {place.folder / 'state'}`")


@BOTH
def test_disk_full(place: Place, command: str) -> None:
    """A full disk at the first start is called that."""
    config = place.config(command, *password_lines(command))
    with small_disk(place.folder / "state", full=True):
        said = place.complaint(place.twistd(command, config))
    assert "cannot be written: No space left on device" in said


def test_disk_full_later(place: Place) -> None:
    """One that keys fit on, but not the accounts, too."""
    config = place.config("vpnserver")
    with small_disk(place.folder / "state", full=False):
        said = place.complaint(place.twistd("vpnserver", config))
        assert "users.sqlite: no space left: free some on that disk, nothing was changed" in said
        again = place.complaint(place.twistd("vpnserver", config))
    assert again == said


# -- pyvpn


PYVPN = ["python", "-c", "from pyvpn.cli import main; main(prog_name='pyvpn')"]


def refused(place: Place, *words: str, input: str | None = None) -> str:
    ended = place.lab.run("server", [*PYVPN, *words], check=False, input=input)
    assert ended.returncode == 1, ended
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert ended.stdout == ""
    assert SECRET not in ended.stderr
    return ended.stderr


def test_account_mistakes(place: Place) -> None:
    """Names and passwords that will not do, a name that is not there, a password as argument."""
    config = str(place.config("vpnserver"))
    where = ("--config", config)
    assert "7 characters: take 8 or more" in refused(
        place, "user", "add", "a", *where, input="1234567"
    )
    assert "send one line to standard input" in refused(
        place, "user", "add", "a", *where, input=""
    )
    assert "1 to 64 letters" in refused(place, "user", "add", "a b", *where, input=SECRET)
    place.lab.run("server", [*PYVPN, "user", "add", "anna", *where], input=SECRET)
    assert "'anna' already" in refused(place, "user", "add", "anna", *where, input=SECRET)
    assert "did you mean 'anna'?" in refused(place, "user", "disable", "ana", *where)
    assert "outside of" in refused(place, "user", "address", "anna", "192.0.2.1", *where)
    assert "no such file" in refused(place, "user", "list", "--config", "/nowhere.ini")
    words = ["user", "add", "boris", "--password", SECRET, *where]
    ended = place.lab.run("server", [*PYVPN, *words], check=False)
    assert (ended.returncode, SECRET in ended.stderr) == (2, False)
    assert "No such option '--password'" in ended.stderr


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("http://vpn.example.org", "pyvpn://anna@vpn.example.org:51820?pin=sha256:..."),
        ("pyvpn://anna@vpn.example.org?pin=sha256:abc", "pin"),
        ("pyvpn://anna:marker-of-a-password@vpn.example.org", "password"),
        (f"pyvpn://anna@vpn.example.org:99999?pin={PIN}", "99999"),
    ],
)
def test_join_mistakes(place: Place, link: str, words: str) -> None:
    """A link that is none: what is wrong with it; no file is left behind."""
    config = place.folder / "client.ini"
    assert words in refused(place, "join", link, "--config", str(config))
    assert list(place.folder.iterdir()) == []


def test_help(place: Place) -> None:
    """The help of each command has an example."""
    for words in (["vpnserver"], ["vpnclient"]):
        said = place.lab.run("server", ["twistd", *words, "--help"]).stdout
        assert f"twistd -n {words[0]} --config" in said
    names = place.lab.run("server", [*PYVPN, "--help"]).stdout
    commands = re.findall(r"^  (\w+) +[A-Z]", names.partition("Commands:")[2], re.MULTILINE)
    assert {"user", "link", "join", "cleanup"} <= set(commands)
    users = place.lab.run("server", [*PYVPN, "user", "--help"]).stdout
    of_user = re.findall(r"^  (\w+) +[A-Z]", users.partition("Commands:")[2], re.MULTILINE)
    assert {"add", "remove", "passwd"} <= set(of_user)
    for word in [*commands, *(f"user {name}" for name in of_user)]:
        said = place.lab.run("server", [*PYVPN, *word.split(), "--help"]).stdout
        assert f"Example:  pyvpn {word}" in said
