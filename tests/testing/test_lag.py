"""The lags of a reactor, as another thread of the same program sees them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

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


class Watch(SynchronousTestCase):
    """The thread that looks at the reactor."""

    def test_half_imported(self) -> None:
        """It waits for a reactor that is only half imported, and tells how long it was held up."""
        folder = Path(self.mktemp())
        folder.mkdir()
        lags = folder / "lags"
        write_watch(folder, lags)
        ended = subprocess.run(
            [sys.executable, "-c", HELD_UP],
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual((ended.returncode, ended.stderr), (0, ""))
        found = read_lags(lags)
        self.assertGreater(found[-1], 0.1)
        self.assertGreater(len(found), 2)
