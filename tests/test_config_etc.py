"""What stands in etc/: the explained configuration files, and the systemd units."""

from __future__ import annotations

import io
import runpy
import sys
from configparser import RawConfigParser
from pathlib import Path

from pyvpn.config import ClientConfig, ServerConfig, describe, load_client, load_server
from pyvpn.config.table import listed
from tests.configfile import PIN, ConfigFileTestCase

ETC = Path(__file__).parent.parent / "etc"
KINDS = {"server": ServerConfig, "client": ClientConfig}


class DocumentedOptionsTests(ConfigFileTestCase):
    """The files in etc/ against what the program knows."""

    def test_everyOption(self) -> None:
        """The files explain every option there is, each with its default, and no other."""
        for name, kind in KINDS.items():
            self.assertEqual(
                describe(kind),
                (ETC / f"{name}.ini").read_text("utf-8"),
                f"write it again: python3 -m pyvpn.config {name} > etc/{name}.ini",
            )

    def test_uncommented(self) -> None:
        """With every comment sign removed, the server's file says what it said before."""
        text = describe(ServerConfig)
        known = {each.name for each in listed(ServerConfig)}
        lines = [
            line[1:] if line.startswith("#") and line[1:].split(" =")[0] in known else line
            for line in text.splitlines()
        ]
        path = self.write("\n".join(lines))
        parser = RawConfigParser()
        parser.read(path)
        self.assertEqual(
            [(each.section, each.name, each.option.default) for each in listed(ServerConfig)],
            [(section, *item) for section in parser.sections() for item in parser.items(section)],
        )
        config = load_server(path)
        self.assertEqual(ServerConfig(path=config.path), config)

    def test_serverWorksUnedited(self) -> None:
        """The server's file works as it is."""
        config = load_server(ETC / "server.ini")
        self.assertEqual(ServerConfig(path=ETC / "server.ini"), config)

    def test_clientNeedsOneLine(self) -> None:
        """The client's file needs one line, and says which."""
        line = (ETC / "client.ini").read_text("utf-8").splitlines().index("[client]") + 1
        self.assertEqual(
            f"FILE:{line}: [client] server is missing: expected the line the server printed at "
            f"its start: server = pyvpn://anna@vpn.example.org:51820?pin=sha256:...",
            self.complaint(load_client, str(ETC / "client.ini")),
        )
        text = (ETC / "client.ini").read_text("utf-8").replace("#server", "server")
        load_client(self.write(text.replace("sha256:...", PIN)))

    def test_explained(self) -> None:
        """Every option is explained in one to three lines of whole sentences."""
        for kind in KINDS.values():
            for each in listed(kind):
                self.assertIn(each.option.why[-1], ".?", each)
                self.assertLessEqual(len(each.option.why), 3 * 94, each)

    def test_printed(self) -> None:
        """Whoever has only the installed package can have the files printed."""
        for name, kind in KINDS.items():
            output = io.StringIO()
            self.patch(sys, "stdout", output)
            self.patch(sys, "argv", ["pyvpn.config", name])
            runpy.run_module("pyvpn.config", run_name="__main__")
            self.assertEqual(describe(kind), output.getvalue())
        self.patch(sys, "argv", ["pyvpn.config", "serve"])
        error = self.assertRaises(
            SystemExit, runpy.run_module, "pyvpn.config", run_name="__main__"
        )
        self.assertEqual("usage: python3 -m pyvpn.config server|client", error.code)


class UnitTests(ConfigFileTestCase):
    """The systemd units against what the program needs."""

    def unit(self, name: str) -> RawConfigParser:
        """The unit file of that *name*."""
        parser = RawConfigParser(strict=True)
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # keeps capitals
        parser.read_string((ETC / "systemd" / f"pyvpn-{name}.service").read_text("utf-8"))
        return parser

    def test_stateDirectories(self) -> None:
        """The directories systemd makes are those the program looks for, and private."""
        for name, kind in KINDS.items():
            service = self.unit(name)["Service"]
            default = next(each.option for each in listed(kind) if each.name == "state_dir")
            self.assertEqual(default.default, f"/var/lib/{service['StateDirectory']}")
            self.assertEqual("0700", service["StateDirectoryMode"])

    def test_commands(self) -> None:
        """Each runs its command in the foreground, without a pid file, as an ordinary user."""
        for name in KINDS:
            service = self.unit(name)["Service"]
            command = f"twistd -n --pidfile= vpn{name} --config /etc/pyvpn/{name}.ini"
            self.assertEqual(f"/opt/pyvpn/bin/{command}", service["ExecStart"])
            self.assertEqual("pyvpn", service["User"])
            self.assertEqual("/bin/kill -HUP $MAINPID", service["ExecReload"])

    def test_rights(self) -> None:
        """No more capabilities than needed, none to be gained, and the TUN device at hand."""
        needed = {"server": "CAP_NET_ADMIN CAP_NET_BIND_SERVICE", "client": "CAP_NET_ADMIN"}
        for name in KINDS:
            service = self.unit(name)["Service"]
            self.assertEqual(needed[name], service["AmbientCapabilities"])
            self.assertEqual(needed[name], service["CapabilityBoundingSet"])
            self.assertEqual("yes", service["NoNewPrivileges"])
            self.assertEqual("/dev/net/tun rw", service["DeviceAllow"])
