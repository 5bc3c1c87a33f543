"""What can befall a network and its machines in a chaos story, and when it does.

A schedule is drawn from a seed before anything happens, so that it can be read and told again.
Every kind of :class:`Kind` is in it at least once if there is the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random


class Kind(Enum):
    """The ways to break a network; the values are how people call them."""

    LOSS = "packets are lost"
    REPETITION = "packets come twice"
    DISORDER = "packets overtake each other"
    DELAY = "packets are late, each by another time"
    SLOW = "the line is slow"
    CORRUPTION = "bits are flipped"
    LARGE_ONES = "large packets vanish"
    NO_UDP = "no UDP passes"
    NO_UDP_UP = "no UDP passes from the client"
    NO_UDP_DOWN = "no UDP passes to the client"
    NO_TCP = "no TCP passes"
    NOTHING = "nothing passes"
    REBINDING = "the NAT has forgotten its flows"
    NEW_NAT = "the NAT has another address, and has forgotten its flows"
    MOVE = "the client is in another network"
    MOVE_UNTOLD = "the client is in another network, and is not told"
    OTHER_FAMILY = "the client is in a network of the other IP version"
    SERVER_MOVE = "the server has other addresses"
    SERVER_RESTART = "the server is killed, and comes back"
    CLIENT_RESTART = "the client is killed, and comes back"
    CLIENT_LEAVES = "the client says goodbye, and comes back"
    SLEEP = "the client's machine sleeps"
    CLIENT_CLOCK = "the client's wall clock is set"
    SERVER_CLOCK = "the server's wall clock is set"


OF_SERVER = frozenset((Kind.SERVER_MOVE, Kind.SERVER_RESTART, Kind.SERVER_CLOCK))
"""These befall everybody at once."""

LASTING = {
    Kind.LOSS: (5.0, 60.0),
    Kind.REPETITION: (5.0, 60.0),
    Kind.DISORDER: (5.0, 60.0),
    Kind.DELAY: (5.0, 60.0),
    Kind.SLOW: (5.0, 60.0),
    Kind.CORRUPTION: (5.0, 60.0),
    Kind.LARGE_ONES: (10.0, 60.0),
    Kind.NO_UDP: (5.0, 90.0),
    Kind.NO_UDP_UP: (5.0, 90.0),
    Kind.NO_UDP_DOWN: (5.0, 90.0),
    Kind.NO_TCP: (5.0, 90.0),
    Kind.NOTHING: (1.0, 50.0),
    Kind.SERVER_RESTART: (0.5, 10.0),
    Kind.CLIENT_RESTART: (0.2, 10.0),
    Kind.CLIENT_LEAVES: (0.2, 10.0),
    Kind.SERVER_MOVE: (1.0, 10.0),
    Kind.SLEEP: (5.0, 200.0),
}
"""Seconds, from and to; the others are over as soon as they have happened.

For the server's move: until its name says so, and people who use a stock app have turned that off
and on again, for it looks names up only then.
"""
PACE = 0.12
"""Mishaps a second, as long as all kinds fit in: more than one at a time as a rule."""

DAY = 86_400.0
STEPS = (-365 * DAY, -DAY, -3600.0, -40.0, 40.0, 3600.0, DAY, 365 * DAY)
"""By how many seconds a wall clock may be set."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """One of them."""

    at: float
    """Seconds after the story began."""
    kind: Kind
    victim: int
    """Which client's; for those of :data:`OF_SERVER` it is nobody's."""
    seconds: float
    """How long it lasts."""
    amount: float
    """From 0 to 1: how bad it is, or by how much."""

    @property
    def end(self) -> float:
        """When it is over."""
        return self.at + self.seconds

    def told(self, names: list[str]) -> str:
        """Return it as a line for people."""
        who = "all" if self.kind in OF_SERVER else names[self.victim]
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:7.1f} s  {who:<8} {self.kind.value}{self._detail()}{lasts}"

    def _detail(self) -> str:
        if self.kind in _AMOUNTS:
            return f" ({_AMOUNTS[self.kind].format(self.strength)})"
        return ""

    @property
    def strength(self) -> float:
        """:attr:`amount` in the unit of its kind."""
        if self.kind in (Kind.CLIENT_CLOCK, Kind.SERVER_CLOCK):
            return STEPS[int(self.amount * len(STEPS)) % len(STEPS)]
        low, high = _STRENGTHS.get(self.kind, (0.0, 1.0))
        return low + self.amount * (high - low)


_STRENGTHS = {
    Kind.LOSS: (0.02, 0.4),
    Kind.REPETITION: (0.05, 0.6),
    Kind.DISORDER: (0.05, 0.6),
    Kind.DELAY: (0.05, 0.6),
    Kind.SLOW: (8_000.0, 120_000.0),
    Kind.CORRUPTION: (0.02, 0.3),
    Kind.LARGE_ONES: (600.0, 1400.0),
}
_AMOUNTS = {
    Kind.LOSS: "{:.0%}",
    Kind.REPETITION: "{:.0%}",
    Kind.DISORDER: "{:.0%}",
    Kind.DELAY: "up to {:.2f} s",
    Kind.SLOW: "{:.0f} bytes/s",
    Kind.CORRUPTION: "{:.0%}",
    Kind.LARGE_ONES: "above {:.0f} bytes",
    Kind.CLIENT_CLOCK: "{:+.0f} s",
    Kind.SERVER_CLOCK: "{:+.0f} s",
}


def draw(random: Random, seconds: float, clients: int) -> list[Mishap]:
    """Return what happens in a story of so many *seconds*, in order; some of it outlasts them."""
    wanted = max(len(Kind), round(seconds * PACE))
    kinds = list(Kind)
    while len(kinds) < wanted:
        kinds.append(random.choice(list(Kind)))
    random.shuffle(kinds)
    mishaps = []
    for kind in kinds:
        low, high = LASTING.get(kind, (0.0, 0.0))
        mishaps.append(
            Mishap(
                at=round(random.uniform(0, seconds), 3),
                kind=kind,
                victim=random.randrange(clients),
                seconds=round(random.uniform(low, high), 3),
                amount=random.random(),
            )
        )
    return sorted(mishaps, key=lambda each: each.at)
