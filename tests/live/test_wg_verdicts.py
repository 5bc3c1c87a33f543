"""Verdicts on configuration lines of every wrong kind, against wireguard-go's."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvpn.testing.namespace import Namespace
from tests.live.verdicts import RESET, Program, Requests, difference, is_modern
from tests.live.wgnet import GO, OURS, Interface

# Enough for every kind of line; more, with other seeds, were put to both by hand.
REQUESTS = 800


Both = tuple[Interface, Interface]


@pytest.fixture
def both(
    tun: None, make_namespace: Callable[[], Namespace], tmp_path: Path
) -> Iterator[tuple[Interface, Interface]]:
    """wireguard-go and ours, each alone in a namespace, so that they may have the same port."""
    with (
        Interface(tmp_path, make_namespace(), "wgjudge", GO) as judge,
        Interface(tmp_path, make_namespace(), "wgjudged", OURS) as ours,
    ):
        for interface in judge, ours:
            interface.up()
        yield judge, ours


@pytest.mark.parametrize("seed", [1, 2])
def test_verdicts(both: Both, seed: int) -> None:
    """Both answer alike, and are in the same state afterwards."""
    judge, ours = (Program(interface.name) for interface in both)
    requests = Requests(seed, is_modern(judge)).make(REQUESTS)
    found = [
        words for request in requests if (words := difference(judge, ours, request)) is not None
    ]

    assert found == []


def test_port_in_use(both: Both) -> None:
    """A port that somebody else has is the same error, and ends the request.

    Ours keeps the port that it had, as the kernel's WireGuard does. wireguard-go is left without,
    which is why this is not among the verdicts.
    """
    answers = []
    for interface in both:
        program = Program(interface.name)
        assert program.ask(RESET) == b"errno=0\n\n"
        with interface.place.inside(), socket.socket(type=socket.SOCK_DGRAM) as taken:
            taken.bind(("", 7777))
            answers.append(program.ask(b"set=1\nlisten_port=7777\nfwmark=1\n\n"))

    assert answers == [b"errno=-98\n\n"] * 2
    assert both[1].wg("show", both[1].name, "listen-port") == "51820\n"
    assert both[1].wg("show", both[1].name, "fwmark") == "off\n"
