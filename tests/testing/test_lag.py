"""The lags of a reactor, as another thread of the same program sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pyvpn.testing.lag import read_lags, write_watch

HELD_UP = """
import sys, time, types

# As in the middle of an import: the module is there, and empty.
sys.modules["twisted.internet.reactor"] = types.ModuleType("twisted.internet.reactor")
time.sleep(0.1)
del sys.modules["twisted.internet.reactor"]

from twisted.internet import reactor

reactor.callLater(0.1, time.sleep, 0.3)
reactor.callLater(0.6, reactor.stop)
reactor.run()
"""


def test_watch(tmp_path: Path) -> None:
    """It waits for a reactor that is only half imported, and tells how long one was held up."""
    lags = tmp_path / "lags"
    write_watch(tmp_path, lags)
    ended = subprocess.run(
        [sys.executable, "-c", HELD_UP],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    found = read_lags(lags)
    assert found[-1] > 0.1
    assert len(found) > 2
