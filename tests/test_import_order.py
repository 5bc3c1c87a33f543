"""The house's order, read from the import statements: no room imports one below it.

The reasons are in docs/design.rst. A room is the first name below ``pyvpn``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import pyvpn

PACKAGE = Path(pyvpn.__file__).parent

# From the top down. Rooms in one row stand side by side: neither imports the other.
ROWS = (
    {"errors"},
    {"wire"},
    {"crypto"},
    {"interfaces"},
    {"tunnel"},
    {"store"},
    {"config"},
    {"net"},
    {"auth"},
    {"server", "client", "wg"},
    {"server_tap", "client_tap"},
    {"cli"},
    {"testing"},
)
ROW_OF = {room: number for number, rooms in enumerate(ROWS) for room in rooms}

# Deaf rooms get time, randomness and bytes as arguments, so that every test of them is exact.
DEAF = {"errors", "wire", "crypto", "tunnel"}
SOUNDS = {
    "asyncio",
    "os",
    "pathlib",
    "pyroute2",
    "random",
    "secrets",
    "select",
    "socket",
    "sqlite3",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "twisted",
    "uuid",
    "zope",
}


def imported(source: str) -> Iterator[str]:
    """Yield the dotted name of every module imported in *source*, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide which room is meant"
            # "from pyvpn import config" names a room, "from pyvpn.net import tun" a module in it
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def faults(room: str, source: str) -> list[str]:
    """Return one line for each import of *source* that *room* must not make."""
    found = []
    for name in imported(source):
        top, _, rest = name.partition(".")
        if top == "pyvpn":
            other = rest.partition(".")[0]
            if other in ROW_OF and other != room and ROW_OF[other] >= ROW_OF[room]:
                found.append(f"{room} imports {name}, which is not above it")
        elif room in DEAF and top in SOUNDS:
            found.append(f"{room} is deaf, but imports {name}")
        elif room == "interfaces" and top not in {"__future__", "collections", "typing", "zope"}:
            found.append(f"interfaces imports {name}, though it is nothing but seams")
    return found


class ImportOrderTests(SynchronousTestCase):
    """Every module of the package, and the check itself."""

    def test_every_room_has_its_place(self) -> None:
        """A new file or folder directly below pyvpn is put into the order on purpose."""
        rooms = {path.stem for path in PACKAGE.glob("*.py")} | {
            path.parent.name for path in PACKAGE.glob("*/__init__.py")
        }
        self.assertEqual(set(), rooms - {"__init__"} - set(ROW_OF))

    def test_no_room_imports_one_below_it(self) -> None:
        """A change in a lower room never reaches an upper one; deaf rooms stay deaf."""
        found = [
            f"{path.relative_to(PACKAGE)}: {fault}"
            for path in sorted(PACKAGE.rglob("*.py"))
            if path.parent != PACKAGE or path.stem != "__init__"
            for fault in faults(
                path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path.read_text()
            )
        ]
        self.assertEqual([], found)

    def test_the_package_itself_imports_nothing(self) -> None:
        """``import pyvpn`` costs nothing and drags no room in."""
        self.assertEqual([], list(imported((PACKAGE / "__init__.py").read_text())))

    def test_an_import_from_below_is_found(self) -> None:
        """Each way of writing a forbidden import is noticed, also inside a function."""
        for source in (
            "import pyvpn.net.tun",
            "from pyvpn.net import tun",
            "from pyvpn import net",
            "def later():\n    from pyvpn.net.tun import Tun",
        ):
            self.assertEqual(1, len(faults("tunnel", source)), source)
            self.assertEqual([], faults("server", source), source)

    def test_side_by_side(self) -> None:
        """Server and client share no code but what is above both."""
        self.assertEqual(1, len(faults("client", "import pyvpn.server")))
        self.assertEqual(1, len(faults("server", "import pyvpn.client")))
        self.assertEqual([], faults("client", "import pyvpn.client.machine"))

    def test_a_deaf_room_that_hears_is_found(self) -> None:
        """Clock, sockets and the reactor stay out of the deaf rooms, and only out of those."""
        for source in ("import time", "from twisted.internet import defer", "import os.path"):
            self.assertEqual(1, len(faults("tunnel", source)), source)
            self.assertEqual([], faults("net", source), source)
        self.assertEqual([], faults("tunnel", "import hashlib, ipaddress, json, struct"))
