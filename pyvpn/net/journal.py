"""What we changed on the host that outlives us, written down before it was changed.

The journal is one list, in the order of making, so that undoing it backwards meets each change
as it was made.  A step that is written down but was never made must therefore be harmless to
undo; :mod:`pyvpn.net.host` sees to that.
"""

from __future__ import annotations

import ipaddress
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import ClassVar

from twisted.logger import Logger

from pyvpn.errors import HostError

_MOST_BYTES = 1 << 20  # far more than a real one; a disk fault must not fill our memory


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A value below /proc/sys: *path* without that prefix, *old* before us, *new* by us.

    *new* is None if the kernel itself changes the value when it is told another one, so that
    nothing can be said about what it will be.
    """

    kind: ClassVar[str] = "sysctl"
    path: str
    old: str
    new: str | None

    def is_sound(self) -> bool:
        # The file is ours alone, but it names paths that root will write to.
        parts = self.path.split("/")
        return parts[:1] == ["net"] and not {"", ".", ".."} & set(parts)


@dataclass(frozen=True, slots=True)
class NftTable:
    """A table of family inet."""

    kind: ClassVar[str] = "nft-table"
    name: str

    def is_sound(self) -> bool:
        return self.name.startswith("pyvpn_")


@dataclass(frozen=True, slots=True)
class Rule:
    """``not fwmark MARK lookup TABLE``, for IP *version* 4 or 6."""

    kind: ClassVar[str] = "rule"
    version: int
    mark: int
    table: int

    def is_sound(self) -> bool:
        return self.version in (4, 6) and 0 < self.mark < 1 << 32 and 0 < self.table < 1 << 32


@dataclass(frozen=True, slots=True)
class Guard:
    """The unreachable route to *network* that stands behind the tunnel's own."""

    kind: ClassVar[str] = "guard"
    network: str

    def is_sound(self) -> bool:
        with suppress(ValueError):
            return str(ipaddress.ip_network(self.network)) == self.network
        return False


Step = Sysctl | NftTable | Rule | Guard

_KINDS: dict[str, type[Step]] = {c.kind: c for c in (Sysctl, NftTable, Rule, Guard)}
_FIELDS: dict[str, tuple[type, ...]] = {
    "path": (str,),
    "old": (str,),
    "new": (str, type(None)),
    "name": (str,),
    "version": (int,),
    "mark": (int,),
    "table": (int,),
    "network": (str,),
}


class Journal:
    """The list of steps in a file (0600) that is replaced as a whole, or not at all.

    Args:
        path: of the file; its directory exists.

    A file that cannot be understood is set aside under its name plus ``.bad`` and logged: it
    cannot tell us what to undo, and must not keep us from starting.

    Raises:
        HostError: the file cannot be read, or not be set aside.
    """

    _log = Logger()

    def __init__(self, path: str) -> None:
        self._path = path
        self._steps: list[Step] = self._load()

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps in the order in which they were written down."""
        return tuple(self._steps)

    def write(self, step: Step) -> None:
        """Write *step* down, safely on the disk when this returns; call it before the change.

        What is written down already stays as it is, so the value that a sysctl had before our
        first run survives however many crashes.

        Raises:
            HostError: it could not be written; then nothing may be changed.
        """
        if target_of(step) not in map(target_of, self._steps):
            self._replace([*self._steps, step])

    def strike(self, *steps: Step) -> None:
        """Forget *steps*, which were undone.

        Raises:
            HostError: the file could not be written; undoing them again does no harm.
        """
        kept = [step for step in self._steps if step not in steps]
        if kept != self._steps:
            self._replace(kept)

    def _replace(self, steps: list[Step]) -> None:
        try:
            if steps:
                self._write_file(steps)
            else:  # which works on a full disk, too
                with suppress(FileNotFoundError):
                    os.unlink(self._path)
            _sync_directory(self._path)
        except OSError as error:
            raise HostError(
                f"{self._path}: cannot write down what is changed on this host: {error.strerror}"
            ) from error
        self._steps = steps

    def _write_file(self, steps: list[Step]) -> None:
        text = json.dumps([{"kind": step.kind, **asdict(step)} for step in steps], indent=1)
        new = self._path + ".new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(fd)
        os.replace(new, self._path)

    def _load(self) -> list[Step]:
        try:
            with open(self._path, "rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise HostError(f"{self._path}: cannot be read: {error.strerror}") from error
        try:
            return _decode(data)
        except (ValueError, RecursionError) as error:
            bad = self._path + ".bad"
            try:
                os.replace(self._path, bad)
            except OSError as problem:
                raise HostError(
                    f"{self._path}: is damaged and cannot be set aside: {problem.strerror}"
                ) from problem
            self._log.warn(
                "{path} is damaged ({why}) and was moved to {bad}: if an earlier run crashed, "
                "look for what it left:  ip rule; ip route show proto 200; nft list tables",
                path=self._path,
                why=str(error),
                bad=bad,
            )
            return []


def target_of(step: Step) -> Step | str:
    """Return what *step* changes; only a sysctl says more than that."""
    return step.path if isinstance(step, Sysctl) else step


def _decode(data: bytes) -> list[Step]:
    """Read a journal; ValueError or RecursionError for whatever we did not write."""
    if len(data) > _MOST_BYTES:
        raise ValueError("much too long")
    found = json.loads(data.decode("utf-8"))
    if not isinstance(found, list):
        raise ValueError("not a list")
    return [_step(entry) for entry in found]


def _step(entry: object) -> Step:
    if not isinstance(entry, dict):
        raise ValueError(f"a step is {entry!r:.80}")
    kind = entry.pop("kind", None)
    made = _KINDS.get(kind) if isinstance(kind, str) else None
    if made is None or set(entry) != set(made.__slots__):
        raise ValueError(f"a step of kind {kind!r:.80} has {sorted(entry)!r:.80}")
    for name, value in entry.items():
        # A type of exactly that kind: True is an int to isinstance.
        if type(value) not in _FIELDS[name]:
            raise ValueError(f"{name} is {value!r:.80}")
    step = made(**entry)
    if not step.is_sound():
        raise ValueError(f"no step of ours: {step!r:.120}")
    return step


def _sync_directory(path: str) -> None:
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
