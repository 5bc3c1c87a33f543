"""What is installed is ours alone: nothing of Twisted's is replaced, and both commands appear.

No package index is asked. What pyvpn needs is copied from the environment the tests run in.
"""

from __future__ import annotations

import atexit
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import pyvpn

CHECKOUT = Path(pyvpn.__file__).parent.parent
NOT_SOURCE = shutil.ignore_patterns(
    ".*", "_trial_temp*", "__pycache__", "build", "dist", "*.egg-info", "dropin.cache"
)
COMMANDS = {"vpnserver", "vpnclient"}


def why_not() -> str | None:
    """Say in words why packaging cannot be tested here; None if it can."""
    if not (CHECKOUT / "setup.cfg").exists():
        return "pyvpn is installed, not checked out: there is nothing to package"
    needed = {"pip": 22, "packaging": 20, "setuptools": 77}  # as in setup.cfg, "test"
    for name, major in needed.items():
        if find_spec(name) is None or int(metadata.version(name).partition(".")[0]) < major:
            return f"{name} {major} or newer is not installed: 'make test' brings it"
    return None


def run(*program: str | Path, cwd: str | Path = "/") -> str:
    """Run *program* and return what it said; its words are in the error if it fails."""
    ended = subprocess.run(
        program, cwd=cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if ended.returncode != 0:
        raise AssertionError(f"{program} ended with {ended.returncode}:\n{ended.stderr}")
    return ended.stdout


def pip(*arguments: str | Path) -> str:
    """Run pip without its index, its configuration or its cache."""
    return run(sys.executable, "-m", "pip", "--isolated", "--no-cache-dir", *arguments)


@cache
def folder() -> Path:
    """Return the folder of this run, removed at its end."""
    made = Path(tempfile.mkdtemp(prefix="pyvpn-packaging-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def source() -> Path:
    """Copy the checkout, because building writes into the folder it builds from."""
    return Path(shutil.copytree(CHECKOUT, folder() / "source", ignore=NOT_SOURCE))


@cache
def wheel() -> Path:
    """Build the wheel once for all tests."""
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", folder(), source())
    (built,) = folder().glob("*.whl")
    return built


def needed(distribution: metadata.Distribution, extras: tuple[str, ...] = ()) -> set[str]:
    """Return the names of what *distribution* needs at run time, itself not included."""
    from packaging.requirements import Requirement  # only where why_not() has seen it

    names = set()
    for line in distribution.requires or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            names.add(requirement.name)
            its_own = metadata.distribution(requirement.name)
            names |= needed(its_own, tuple(requirement.extras))
    return names


class Environment:
    """A fresh virtual environment holding copies of what pyvpn needs, but not pyvpn."""

    def __init__(self, top: Path) -> None:
        venv.create(top, with_pip=False, symlinks=True)
        (self.site,) = top.glob("lib/python*/site-packages")
        self.python = top / "bin" / "python"
        with zipfile.ZipFile(wheel()) as archive:
            (inside,) = {name.partition("/")[0] for name in archive.namelist() if "-info/" in name}
            # what the wheel itself says it needs, so that a forgotten requirement is noticed
            ours = metadata.PathDistribution(zipfile.Path(archive, f"{inside}/"))
            for name in needed(ours) | {"setuptools"}:
                self._copy(metadata.distribution(name))

    def _copy(self, distribution: metadata.Distribution) -> None:
        for file in distribution.files or ():
            if ".." in file.parts or "test" in file.parts:
                continue
            target = self.site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(str(file.locate()), target)  # with its time, or .pyc files are stale

    def pip(self, *arguments: str | Path) -> str:
        """Run pip on this environment."""
        return pip("--python", self.python, *arguments)

    def commands(self) -> set[str]:
        """Return which of our commands ``twistd --help`` lists, asked from /."""
        script = "from twisted.scripts.twistd import run; run()"
        # -P: as the installed twistd script does, leave the current folder off the path
        said = run(self.python, "-P", "-c", script, "--help")
        return COMMANDS & set(said.split())

    def twisted(self) -> dict[str, str]:
        """Return the hash of every file of Twisted's, generated ones left out."""
        return {
            str(path.relative_to(self.site)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (self.site / "twisted").rglob("*")
            if path.is_file() and path.suffix != ".pyc" and path.name != "dropin.cache"
        }


@cache
def fresh_environment() -> Environment:
    """Make the environment once: each test removes pyvpn again, and checks that it is away."""
    return Environment(folder() / "environment")


class WheelTests(SynchronousTestCase):
    """What the wheel and the source archive hold."""

    skip = why_not()

    def test_one_file_below_twisted(self) -> None:
        """The wheel brings exactly one file into Twisted's folder: the drop-in."""
        with zipfile.ZipFile(wheel()) as archive:
            below = {name for name in archive.namelist() if name.startswith("twisted")}
        self.assertEqual({"twisted/plugins/pyvpn_dropin.py"}, below)

    def test_all_of_the_package_and_nothing_else(self) -> None:
        """Every module of the checkout is in the wheel; tests and settings are not."""
        with zipfile.ZipFile(wheel()) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
        modules = {str(path.relative_to(source())) for path in source().glob("pyvpn/**/*.py")}
        self.assertEqual(modules | {"pyvpn/py.typed", "twisted/plugins/pyvpn_dropin.py"}, names)

    def test_source_archive(self) -> None:
        """Whoever packages pyvpn finds licence, settings, tests and documents in the archive."""
        build = "from setuptools import build_meta; build_meta.build_sdist('..')"
        run(sys.executable, "-c", build, cwd=source())
        (built,) = folder().glob("*.tar.gz")
        with tarfile.open(built) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        wanted = {
            str(path.relative_to(source()))
            for top in ("docs", "etc", "pyvpn", "tests", "twisted")
            for path in (source() / top).rglob("*")
            if path.is_file() and path.suffix != ".pyc" and path.name != "dropin.cache"
        }
        wanted |= {"LICENSE", "README.rst", "setup.cfg", "pyproject.toml"}
        self.assertEqual(set(), wanted - names)
        self.assertEqual(set(), {name for name in names if "dropin.cache" in name})


class InstallTests(SynchronousTestCase):
    """Installing and removing, in a fresh environment."""

    skip = why_not()

    def test_install_and_uninstall(self) -> None:
        """Installed, both commands are there; removed, Twisted is what it was, byte for byte."""
        environment = fresh_environment()
        before = environment.twisted()
        self.assertEqual(set(), environment.commands())
        environment.pip("install", "--no-index", wheel())
        self.assertEqual(COMMANDS, environment.commands())
        installed = {**before, **environment.twisted()}
        self.assertEqual(["twisted/plugins/pyvpn_dropin.py"], sorted(set(installed) - set(before)))
        self.assertEqual(before, {name: installed[name] for name in before})
        environment.pip("uninstall", "--yes", "pyvpn-twisted")
        self.assertEqual(before, environment.twisted())
        self.assertEqual(set(), environment.commands())

    def test_editable(self) -> None:
        """A checkout installed as editable has both commands too, and leaves Twisted alone."""
        environment = fresh_environment()
        before = environment.twisted()
        self.assertEqual(set(), environment.commands())
        environment.pip("install", "--no-index", "--no-build-isolation", "--editable", source())
        self.assertEqual(COMMANDS, environment.commands())
        self.assertEqual(before, environment.twisted())
        environment.pip("uninstall", "--yes", "pyvpn-twisted")
        self.assertEqual(set(), environment.commands())
