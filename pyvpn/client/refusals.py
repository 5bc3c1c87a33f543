"""What was not taken from the server, told once and not at every push."""

from __future__ import annotations

from twisted.logger import Logger

from pyvpn.tunnel.acceptance import Accepted

_log = Logger()

MOST_TOLD = 8
"""A server must not fill our log."""


class Refusals:
    """Remembers what was told."""

    def __init__(self) -> None:
        self._told: tuple[tuple[str, str], ...] = ()

    def tell(self, accepted: Accepted) -> str:
        """Log what is new in *accepted*; return the status that it amounts to."""
        if accepted.refused != self._told:
            self._told = accepted.refused
            self._say(accepted)
        if accepted.clashes:
            return f"up, but {accepted.clashes[0]} is also one of this host's own networks"
        return "up"

    @staticmethod
    def _say(accepted: Accepted) -> None:
        for value, why in accepted.refused[:MOST_TOLD]:
            _log.warn("not taken from the server: {value} {why}", value=value, why=why)
        if len(accepted.refused) > MOST_TOLD:
            _log.warn("... and {n} more", n=len(accepted.refused) - MOST_TOLD)
        for network in accepted.clashes[:MOST_TOLD]:
            _log.warn(
                "{network} is behind the server and also right here: hosts there stay those of "
                "this side; renumber one of the two, or set accept_own_networks = yes",
                network=str(network),
            )
