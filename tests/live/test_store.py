"""The store on a disk that is really full: a small tmpfs, which the sandbox may mount."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvpn.errors import HostError
from pyvpn.store.sqlite import FILE_NAME, Store


@contextmanager
def small_disk(place: Path, kib: int) -> Iterator[Path]:
    """A directory with room for *kib* KiB."""
    options = f"size={kib}k,mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(path: Path) -> list[str] | None:
    """Add users until the disk is full; return who was added, None when there is no store."""
    added: list[str] = []
    try:
        store = Store(path)
    except HostError as error:
        if "no space left" not in str(error):
            raise
        return None
    try:
        while True:
            store.add_user(f"user{len(added):04}", "hash" * 25, 1.7e9)
            added.append(f"user{len(added):04}")
    except HostError as error:
        if "no space left" not in str(error):
            raise
        assert added == [user.name for user in store.users()]
    finally:
        store.close()
    return added


@pytest.mark.usefixtures("in_sandbox")
def test_full_disk(tmp_path: Path) -> None:
    """Whatever the disk's size: what was answered is kept, and no half store is left behind."""
    outcomes = set()
    for kib in range(8, 200, 4):
        with small_disk(tmp_path, kib) as directory:
            path = directory / FILE_NAME
            added = fill(path)
            outcomes.add(added is None)
            if added is None and not path.exists():
                assert list(directory.iterdir()) == []
                continue
            bigger = f"remount,size={kib + 1024}k"
            subprocess.run(["mount", "-o", bigger, str(directory)], check=True)
            store = Store(path)
            try:
                assert (added or []) == [user.name for user in store.users()]
                store.add_user("room", "hash", 1.7e9)
            finally:
                store.close()
    assert outcomes == {True, False}
