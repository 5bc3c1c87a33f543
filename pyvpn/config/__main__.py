"""``python3 -m pyvpn.config server`` prints a file to start from; ``client`` likewise."""

from __future__ import annotations

import sys

from pyvpn.config import ClientConfig, ServerConfig, describe

KINDS = {"server": ServerConfig, "client": ClientConfig}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in KINDS:
        sys.exit("usage: python3 -m pyvpn.config server|client")
    sys.stdout.write(describe(KINDS[sys.argv[1]]))
