"""Configuration files as such: what cannot be read, what nobody knows, and what is never said."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pyvpn.config import ClientConfig, ServerConfig, load_client, load_server
from pyvpn.config.table import listed
from pyvpn.errors import ConfigError
from tests.configfile import ConfigFileTestCase

KINDS = {"server": ServerConfig, "client": ClientConfig}
MARK = "correct-horse"


class UnreadableFileTests(ConfigFileTestCase):
    """Files that never get as far as an option."""

    def complain(self, content: str | bytes) -> str:
        """What the server says to a file with this *content*."""
        return self.complaint(load_server, self.write(content))

    def test_missing(self) -> None:
        """A file that is not there: how to make one."""
        self.assertEqual(
            "FILE: no such file: make one with  python3 -m pyvpn.config server > FILE",
            self.complaint(load_server, self.mktemp()),
        )
        self.assertEqual(
            "FILE: no such file: make one with  pyvpn join LINK --config FILE  "
            "(the server prints its LINK at its start)",
            self.complaint(load_client, self.mktemp()),
        )

    def test_forbidden(self) -> None:
        """A file that may not be read: who must be able to."""
        path = self.write("[server]\n", 0o000)
        user = os.geteuid()
        if user == 0:  # root may read anything: be nobody for a moment
            os.seteuid(65534)
            self.addCleanup(os.seteuid, 0)
        self.assertEqual(
            f"FILE: permission denied: user id {os.geteuid()} must be able to read it",
            self.complaint(load_server, path),
        )

    def test_directory(self) -> None:
        """A directory in the file's place."""
        path = self.mktemp()
        os.mkdir(path)
        self.assertEqual("FILE: cannot be read: Is a directory", self.complaint(load_server, path))

    def test_nameThatCannotBe(self) -> None:
        """A file name no system has."""
        error = self.assertRaises(ConfigError, load_server, "a\0b")
        self.assertIn("cannot be read: embedded null byte", str(error))

    def test_endless(self) -> None:
        """A device that never ends is not read to its end."""
        self.assertEqual(
            "FILE: more than 1048576 bytes: not a configuration file",
            self.complaint(load_server, "/dev/zero"),
        )

    def test_notUtf8(self) -> None:
        """Bytes that are no UTF-8: the line they are in."""
        self.assertEqual(
            "FILE:3: not UTF-8: save the file as UTF-8 text",
            self.complain(b"[server]\n#\n# caf\xe9\n"),
        )

    def test_byteOrderMark(self) -> None:
        """An invisible mark at the beginning, as some editors make it, does no harm."""
        path = self.write(b"\xef\xbb\xbf[tunnel]\r\nmtu = 1400\r\n")
        self.assertEqual(1400, load_server(path).tunnel.mtu)

    def test_optionBeforeSection(self) -> None:
        """An option before the first section."""
        self.assertEqual(
            "FILE:2: expected a [section] alone on its line before all else",
            self.complain("# ours\nmtu = 1400\n[tunnel]\n"),
        )

    def test_brokenHeader(self) -> None:
        """A header without its bracket, or with something behind it."""
        expected = (
            "FILE:2: expected 'option = value', a [section] alone on its line, "
            "or a comment that begins with '#'"
        )
        self.assertEqual(expected, self.complain("[server]\n[tunnel\n"))
        self.assertEqual(expected, self.complain("[server]\n[tunnel] # mine\n"))
        self.assertEqual(
            "FILE:1: expected a [section] alone on its line before all else",
            self.complain("[tunnel\nmtu = 1400\n"),
        )

    def test_severalBrokenLines(self) -> None:
        """Each line that is nothing gets a line of the answer."""
        rest = (
            "expected 'option = value', a [section] alone on its line, "
            "or a comment that begins with '#'"
        )
        self.assertEqual(
            f"FILE:2: {rest}\nFILE:4: {rest}", self.complain("[server]\njunk\n#\n= 5\n")
        )

    def test_duplicateOption(self) -> None:
        """An option written twice: both lines are named."""
        self.assertEqual(
            "FILE:4: [tunnel] mtu is set in line 2 already: keep one of them",
            self.complain("[tunnel]\nmtu = 1400\n\nMTU = 1500\n"),
        )

    def test_duplicateSection(self) -> None:
        """A section written twice: both lines are named."""
        self.assertEqual(
            "FILE:3: [tunnel] stands in line 1 already: keep one of them",
            self.complain("[tunnel]\n[server]\n[tunnel]\n"),
        )

    def test_defaultSection(self) -> None:
        """[DEFAULT] has no magic: it is a section nobody knows."""
        self.assertEqual(
            "FILE:1: [DEFAULT]: no such section: there are "
            "firewall, leases, plain, server, tls, tunnel, wireguard",
            self.complain("[DEFAULT]\nmtu = 1400\n"),
        )


class UnknownNameTests(ConfigFileTestCase):
    """Sections and options that do not exist."""

    def test_section(self) -> None:
        """A misspelt section: the one that was meant."""
        for wrong in ("tunel", "Tunnel", " tunnels "):
            self.assertEqual(
                f"FILE:1: [{wrong.strip()}]: no such section: did you mean 'tunnel'?",
                self.complaint(load_server, self.write(f"[{wrong}]\nmtu = 1400\n")),
            )

    def test_option(self) -> None:
        """A misspelt option: the one that was meant."""
        self.assertEqual(
            "FILE:2: [tunnel] hartbeat: no such option: did you mean 'heartbeat'?",
            self.complaint(load_server, self.write("[tunnel]\nhartbeat = 5s\n")),
        )

    def test_optionElsewhere(self) -> None:
        """An option in the wrong section: the right one."""
        self.assertEqual(
            "FILE:2: [server] mtu: no such option: it belongs into [tunnel]",
            self.complaint(load_server, self.write("[server]\nmtu = 1400\n")),
        )

    def test_optionLikeNoOther(self) -> None:
        """An option that resembles none: those there are."""
        self.assertEqual(
            "FILE:2: [tls] zzz: no such option: there are certificate, names, private_key",
            self.complaint(load_server, self.write("[tls]\nzzz = 1\n")),
        )

    def test_unprintable(self) -> None:
        """What would move the terminal's cursor is shown as an escape."""
        self.assertEqual(
            "FILE:1: [\\x1b[2J]: no such section: there are client, tunnel\n"
            "FILE: [client] server is missing: expected the line the server printed at its start: "
            "server = pyvpn://anna@vpn.example.org:51820?pin=sha256:...",
            self.complaint(load_client, self.write("[\x1b[2J]\n")),
        )

    def test_endlessName(self) -> None:
        """A name without end is cut in the answer."""
        complaint = self.complaint(load_server, self.write(f"[server]\n{'x' * 5000} = 1\n"))
        self.assertIn(f"[server] {'x' * 197}...: no such option", complaint)


class ComplaintTests(ConfigFileTestCase):
    """The form of what is said about wrong values."""

    def test_allAtOnce(self) -> None:
        """Several mistakes are told together, in the order of the file."""
        self.assertEqual(
            "FILE:2: [tunnel] mtu = 'huge': a whole number from 1280 to 9000\n"
            "FILE:3: [tunnel] hartbeat: no such option: did you mean 'heartbeat'?\n"
            "FILE:5: [server] listen = '0': a port from 1 to 65535",
            self.complaint(
                load_server,
                self.write("[tunnel]\nmtu = huge\nhartbeat = 1\n[server]\nlisten = 0\n"),
            ),
        )

    def test_commentBehindValue(self) -> None:
        """A comment behind a value belongs to the value, which is said."""
        self.assertEqual(
            "FILE:2: [tunnel] mtu = '1400 # lte': a whole number from 1280 to 9000 "
            "(a comment needs a line of its own)",
            self.complaint(load_server, self.write("[tunnel]\nmtu = 1400 # lte\n")),
        )

    def test_indentedOption(self) -> None:
        """An indented line continues the value above, which is said."""
        self.assertEqual(
            "FILE:2: [tunnel] mtu = '1400\\nexpiry = 60': a whole number from 1280 to 9000 "
            "(a line that begins with a space continues the one above)",
            self.complaint(load_server, self.write("[tunnel]\nmtu = 1400\n  expiry = 60\n")),
        )

    def test_quotationMarks(self) -> None:
        """Quotation marks are part of a value, which is said."""
        self.assertEqual(
            "FILE:2: [tunnel] mtu = '\"1400\"': a whole number from 1280 to 9000 "
            "(without quotation marks)",
            self.complaint(load_server, self.write('[tunnel]\nmtu = "1400"\n')),
        )

    def test_where(self) -> None:
        """What only trying out shows can still be blamed on its line."""
        path = self.write("[server]\nlisten = 443\n")
        config = load_server(path)
        self.assertEqual(
            f"{os.path.abspath(path)}:2: [server] listen", config.where("server", "listen")
        )
        self.assertEqual(f"{os.path.abspath(path)}: [tunnel] mtu", config.where("tunnel", "mtu"))

    def test_equalWhereverItStands(self) -> None:
        """Configurations compare by what they say: a moved line is no difference."""
        path = self.write("[tunnel]\nmtu = 1400\n")
        before = load_server(path)
        Path(path).write_text("# moved\n\n[server]\n[tunnel]\n\nmtu=1400\n", "utf-8")
        self.assertEqual(before, load_server(path))
        Path(path).write_text("[tunnel]\nmtu=1401\n", "utf-8")
        self.assertNotEqual(before, load_server(path))


class SecretTests(ConfigFileTestCase):
    """Nothing secret is ever said."""

    def assertUnsaid(self, content: str, mode: int = 0o600) -> None:
        """The file is refused, and the answer does not hold the secret."""
        complaint = self.complaint(load_client, self.write(content, mode))
        self.assertNotIn(MARK, complaint)

    def test_complaints(self) -> None:
        """However a password is miswritten, it is not quoted."""
        head = "[client]\nserver = vpn.example.org\n"
        for wrong in (
            f"password = {MARK}\npassword = {MARK}2",
            f"password = {MARK}\npassword_env = X",
            f"password = {MARK}\n two",
            f"password = {MARK}{'x' * 1024}",
            f"password: {MARK}",
            f"password {MARK}",
            MARK,
            f"passwrod = {MARK}",
            f"[{'client'}] password = {MARK}",
            f"protocol = plain-tcp\npassword = {MARK}",
            f"[tunnel]\npassword = {MARK}",
        ):
            self.assertUnsaid(f"{head}{wrong}\n")
        self.assertUnsaid(f"{head}password = {MARK}\n", 0o644)
        self.assertUnsaid(f"password = {MARK}\n")

    def test_passwordInLink(self) -> None:
        """A link with a password in it is refused, and shown without."""
        content = f"[client]\nserver = pyvpn://anna:{MARK}@x@vpn.example.org:1\n"
        self.assertEqual(
            "FILE:2: [client] server = 'pyvpn://anna:***@vpn.example.org:1': "
            "a link without a password: that goes into password_file",
            self.complaint(load_client, self.write(content)),
        )

    def test_repr(self) -> None:
        """A configuration in a log or a traceback does not show the password."""
        path = self.write(f"[client]\nserver = vpn.example.org\npassword = {MARK}\n")
        config = load_client(path)
        self.assertEqual(MARK, config.password)
        self.assertNotIn(MARK, repr(config))


NAMES = sorted(
    {(each.section, each.name) for kind in KINDS.values() for each in listed(kind)}
    | {("client", "nothing"), ("nowhere", "mtu")}
)
VALUES = st.one_of(
    st.text(max_size=40),
    st.text("0123456789./:[]-, dhms\n=#'@?", max_size=40),
    st.sampled_from(["yes", "none", "auto", "10.0.0.0/8", "::/0", "pyvpn://a@b?pin=", "1" * 5000]),
)


class AnyFileTests(ConfigFileTestCase):
    """Whatever a file holds, it is a configuration or a complaint."""

    def judge(self, content: bytes) -> None:
        """Load *content* both ways; nothing but ConfigError may be raised."""
        path = self.write(content)
        for load in (load_server, load_client):
            try:
                load(path)
            except ConfigError as error:
                for line in str(error).split("\n"):
                    self.assertTrue(line.startswith(f"{path}:"), line)
                    self.assertTrue(line.isprintable(), line)
        os.unlink(path)

    @settings(deadline=None)
    @given(st.one_of(st.binary(max_size=200), st.text("[]=\n #;ab:\r\t\0", max_size=60)))
    def test_anyBytes(self, content: str | bytes) -> None:
        """Any bytes at all."""
        self.judge(content if isinstance(content, bytes) else content.encode())

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=6))
    def test_anyValues(self, settings: list[tuple[tuple[str, str], str]]) -> None:
        """Options that exist, with any values."""
        sections: dict[str, list[str]] = {"client": ["server = vpn.example.org"]}
        for (section, name), value in settings:
            sections.setdefault(section, []).append(f"{name} = {value}")
        content = "\n".join(f"[{name}]\n" + "\n".join(body) for name, body in sections.items())
        self.judge(content.encode("utf-8", "surrogatepass"))
