"""Packets are lost, overtaken, repeated and damaged on the way, or come from somebody else.

What each story must show is in ``docs/faults.rst``. Where the peer must do what no app does, it is
``core.py``; where our client and a stock app are looked at, each has somebody on its way.

::

    laptop, laptop2 ---- router ---- internet (relay, Between) ---- server ---- office
"""

from __future__ import annotations

import random
import select
import socket
import statistics
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from pyvpn.net.process import boottime
from pyvpn.testing import faults
from pyvpn.testing.lab import OFFICE_ADDRESS, SERVER_ADDRESS, Lab
from pyvpn.testing.namespace import stop, wait_for_line
from pyvpn.wire.datagram import OFFLOAD, Path
from tests.live.between import ADDRESS, Between
from tests.live.core import Core
from tests.live.figures import above, below
from tests.live.office import SOAKING, Office, tell, wait_until
from tests.live.stock import (
    DATA,
    PORT,
    RESPONSE,
    SO_RCVBUFFORCE,
    App,
    Wire,
    add_device,
    drops,
    losing,
    rules,
    server_peers,
)
from tests.live.test_traffic import udp_packet

NUMBER = struct.Struct("!Q")
LISTENING = 7007
WINDOW = 8128
"""How far behind the newest a packet may be, as WireGuard has it."""


class Heard(threading.Thread):
    """Takes numbered datagrams on a host, and counts how often each came."""

    def __init__(self, lab: Lab, host: str) -> None:
        super().__init__(daemon=True)
        with lab.hosts[host].inside():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 2**24)
        self._socket.bind(("", LISTENING))
        self._socket.settimeout(0.1)
        self._over = False
        self.numbers: Counter[int] = Counter()

    def __enter__(self) -> Heard:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over = True
        self.join()
        self._socket.close()

    def run(self) -> None:
        while not self._over:
            try:
                data = self._socket.recv(2048)
            except TimeoutError:
                continue
            self.numbers[NUMBER.unpack_from(data)[0]] += 1


class Holding(Core):
    """A core that sends when it is told to, in what order one likes."""

    holding = False

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]  # passed on as they are
        self.held: list[bytes] = []

    def send_datagrams(self, datagrams: Sequence[bytes], path: Path, tos: int) -> int:
        if not self.holding:
            return super().send_datagrams(datagrams, path, tos)
        self.held += map(bytes, datagrams)
        return len(datagrams)

    def say(self, numbers: range) -> list[bytes]:
        """Seal a numbered packet each, and do not send it."""
        source = self.file.addresses[0]
        self.holding = True
        self.held = []
        for number in numbers:
            self.send(udp_packet(source, OFFICE_ADDRESS, NUMBER.pack(number)))
        self.holding = False
        return self.held

    def let_go(self, datagrams: list[bytes], heard: Heard) -> None:
        """Send *datagrams*, no faster than they arrive."""
        for begin in range(0, len(datagrams), 50):
            before, piece = heard.numbers.total(), datagrams[begin : begin + 50]
            for datagram in piece:
                self.socket.sendto(datagram, self.server)
            end = time.monotonic() + 2
            while heard.numbers.total() < before + len(piece) and time.monotonic() < end:
                time.sleep(0.0005)


def test_overtaken(office: Office, lab: Lab) -> None:
    """A10: packets in any order within blocks of 1,000: none is taken for a repeated one.

    The twin: one that comes later than the window is long is.
    """
    count = 100_000 if SOAKING else 10_000
    office.open()
    chance = random.Random(10)
    with Holding(lab, "laptop", add_device(office)) as core, Heard(lab, "office") as heard:
        core.shake_hands()
        for begin in range(0, count, 1000):
            block = core.say(range(begin, begin + 1000))
            chance.shuffle(block)
            core.let_go(block, heard)
        wait_until(lambda: len(heard.numbers) == count, what="all of them")
        assert heard.numbers.total() == count
        assert drops(office)["packet-replayed"] == 0
        tell(f"{count} packets in blocks of 1000 in any order: all arrived, none dropped")

        late, *others = core.say(range(count, count + WINDOW + 2))
        core.let_go(others, heard)
        core.let_go([late], heard)
        wait_until(lambda: drops(office)["packet-replayed"] == 1)
        assert count not in heard.numbers


def damaged(datagram: bytes) -> list[bytes]:
    """Return *datagram* with each of its bits turned, one at a time."""
    found = []
    for place in range(8 * len(datagram)):
        turned = bytearray(datagram)
        turned[place // 8] ^= 1 << place % 8
        found.append(bytes(turned))
    return found


MAC2 = 16  # bytes at the end, which nobody looks at without load


def all_dropped(office: Office, before: int, count: int) -> None:
    """Wait until *count* more datagrams are dropped than *before*.

    Those whose type is wrong may be shed by the kernel, uncounted: the four bytes with it.
    """
    wait_until(lambda: drops(office).total() >= before + count - 32)
    assert drops(office).total() <= before + count


def test_damaged_on_the_way_to_the_server(office: Office, lab: Lab) -> None:
    """A12: an initiation and a packet with each bit turned: nothing is taken, nothing answered.

    The true ones afterwards are: what came before has changed nothing.
    """
    office.open()
    with Holding(lab, "laptop", add_device(office)) as core, Heard(lab, "office") as heard:
        core.holding = True
        core.peer.send_keepalive(boottime())
        [initiation] = core.held
        core.holding = False
        wrong = damaged(initiation)[: -8 * MAC2]
        for number, datagram in enumerate(wrong):
            core.socket.sendto(datagram, core.server)
            if number % 8 == 0:  # as many as the server takes in a turn
                time.sleep(0.005)
        all_dropped(office, 0, len(wrong))
        assert select.select([core.socket], [], [], 0.2)[0] == []
        place = server_peers(lab)[0]
        assert (place.handshake, place.endpoint) == (0, "(none)")
        core.socket.sendto(initiation, core.server)
        assert core.run(5, lambda: core.wireguard.handshakes == 1)
        core.run(0.3)  # the packet that confirms it

        [packet] = core.say(range(1))
        known, before = server_peers(lab)[0], drops(office).total()
        answers = len(core.heard)
        for datagram in damaged(packet):
            core.socket.sendto(datagram, core.server)
        all_dropped(office, before, 8 * len(packet))
        core.run(0.2)
        assert len(core.heard) == answers
        assert heard.numbers.total() == 0
        now = server_peers(lab)[0]
        assert (now.endpoint, now.handshake) == (known.endpoint, known.handshake)
        core.socket.sendto(packet, core.server)
        wait_until(lambda: heard.numbers == {0: 1})
        tell(f"{len(wrong)} wrong initiations and {8 * len(packet)} wrong packets: all dropped")


@contextmanager
def relayed(office: Office, lab: Lab, more: str = "") -> Iterator[None]:
    """Open an office whose address is that of somebody on the way, for TCP and UDP."""
    log = lab.folder / f"{office.name}-relay.log"
    words = ["python", "-m", "tests.live.relay", str(PORT), SERVER_ADDRESS, str(PORT)]
    relay = lab.start("internet", words, log)
    try:
        wait_for_line(log, "ready", process=relay)
        office.open(more, endpoint=ADDRESS)
        yield
    finally:
        stop(relay)


def test_damaged_on_the_way_to_us(office: Office, lab: Lab) -> None:
    """A12: of all kinds of messages that reach our client, each with each bit turned comes first.

    It goes on as if nothing had been.
    """
    to_do = {RESPONSE, DATA}

    def wrong_first(who: str, datagram: bytes) -> list[tuple[float, bytes]]:
        if who == "app" or datagram[0] not in to_do:
            return [(0.0, datagram)]
        to_do.discard(datagram[0])
        return [(0.0, one) for one in damaged(datagram)] + [(0.01, datagram)]

    with relayed(office, lab), Between(lab, wrong_first):
        client = office.join()
        client.says("packets go by UDP", 20)
        assert to_do == set()
        assert office.pings("laptop", OFFICE_ADDRESS, 20) == 20
        said = office.status(client)
        tell("\n".join(line for line in said.splitlines() if "dropped" in line))
        assert "packet-forged" in said
        office.end(client)  # before the way is closed


def test_repeated(office: Office, lab: Lab) -> None:
    """A11: of all datagrams 30 % come twice: each inner packet is delivered once.

    What the server drops as repeated is what was repeated, to the last one.
    """
    count = 20_000 if SOAKING else 1500
    chance = random.Random(11)
    again: Counter[tuple[str, int]] = Counter()

    def twice(who: str, datagram: bytes) -> list[tuple[float, bytes]]:
        if chance.random() > 0.3:
            return [(0.0, datagram)]
        again[who, datagram[0]] += 1
        return [(0.0, datagram), (0.005, datagram)]

    phone_host = lab.add_laptop()
    with relayed(office, lab), Between(lab, twice), Between(lab, twice, "198.18.2.1"):
        file = add_device(office, "anna").but(Endpoint=f"198.18.2.1:{PORT}")
        client = office.join(more="transport = udp\n")
        client.says("packets go by UDP", 20)
        with App(lab, phone_host, file) as phone, ExitStack() as stack:
            office.wait_for_ping(phone_host)
            hears = {
                host: stack.enter_context(Heard(lab, host)) for host in ("laptop", phone_host)
            }
            there = stack.enter_context(Heard(lab, "office"))
            talk = {
                "laptop": (OFFICE_ADDRESS, range(count)),
                phone_host: (OFFICE_ADDRESS, range(count, 2 * count)),
            }
            for host, (target, numbers) in talk.items():
                send_numbers(lab, host, target, numbers)
            for host, address in ("laptop", office.lease()[0]), (phone_host, phone.addresses[0]):
                send_numbers(lab, "office", address, range(count))
                wait_until(lambda: len(hears[host].numbers) == count, what=host)  # noqa: B023
            wait_until(lambda: len(there.numbers) == 2 * count, what="all of them")
        office.end(client)
        packets = again["app", DATA] + again["app", OFFLOAD]
        wait_until(lambda: drops(office)["packet-replayed"] == packets)
    tell(f"{again.total()} of {again} datagrams came twice, no packet did")
    assert there.numbers.total() == 2 * count
    assert {host: one.numbers.total() for host, one in hears.items()} == dict.fromkeys(
        hears, count
    )
    assert packets > 0.5 * count


def send_numbers(lab: Lab, host: str, target: str, numbers: range) -> None:
    """Send numbered datagrams, a few thousand a second."""
    with lab.hosts[host].inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        for number in numbers:
            sender.sendto(NUMBER.pack(number), (target, LISTENING))
            if number % 10 == 0:
                time.sleep(0.005)


def test_handshakes_on_a_bad_line(office: Office, lab: Lab) -> None:
    """A9: a fifth of all datagrams is lost, each way: 100 handshakes, all within 90 s.

    Half of them within 6 s, and 99 % within 30 s; and our client gets to UDP and stays there.
    """
    count = 100 if SOAKING else 10
    office.open()
    files = [add_device(office, "anna", f"peer{number}") for number in range(count)]
    with ExitStack() as stack, rules(lab, "internet", *losing(20)):
        cores = [stack.enter_context(Core(lab, "laptop", file)) for file in files]
        began = time.monotonic()
        took: dict[Core, float] = {}
        for core in cores:
            core.peer.send_keepalive(boottime())
        while len(took) < count and time.monotonic() - began < 90:
            ready = select.select([core.socket for core in cores], [], [], 0.02)[0]
            for core in cores:
                core.turn(core.socket in ready)
                if core.wireguard.handshakes and core not in took:
                    took[core] = time.monotonic() - began
        seconds = sorted(took.values())
        middle, most = statistics.median(seconds), seconds[int(0.99 * len(seconds) - 0.01)]
        tell(
            f"20 % lost each way: {len(took)} handshakes, median {middle:.1f} s, 99 % {most:.1f} s"
        )
        assert len(took) == count
        below(middle, 6)
        below(most, 30)
        client = office.join(more="transport = udp\n")
        client.says("packets go by UDP", 90)
        above(office.pings("laptop", OFFICE_ADDRESS, 50, 0.2), 15)  # 32 are to be expected


@pytest.mark.parametrize("transport", ["auto", "udp"][: 2 if SOAKING else 1])
def test_nobody_else_moves_it(office: Office, lab: Lab, transport: str) -> None:
    """D5: what our client said, said again or forged from elsewhere, never moves its endpoint.

    The twin: when the client itself comes from elsewhere, it does, with the next packet.
    """
    office.open()
    elsewhere = lab.add_laptop(at_home=False)

    def place() -> str:
        line = next(each for each in office.status().splitlines() if "anna/" in each)
        return line.partition("by UDP to ")[2]

    with Wire(lab) as wire:
        client = office.join(more=f"transport = {transport}\n")
        client.says("packets go by UDP")
        assert office.pings("laptop", OFFICE_ADDRESS, 10) == 10
        said = [sight.payload for sight in wire.look() if sight.source[1] != PORT]
    before = place()
    assert before.startswith("198.18.1.2:")
    last = [each for each in said if each[0] == DATA][-1]
    counter = int.from_bytes(last[8:16], "little")
    forged = [
        last[:8] + (counter + ahead).to_bytes(8, "little") + body
        for ahead in (1, 2, 1000, 2**40)
        for body in (last[16:], bytes(16), last[16:-1] + bytes([last[-1] ^ 1]))
    ]
    with lab.hosts[elsewhere].inside():
        thief = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with thief:
        for datagram in (*said, *forged):
            thief.sendto(datagram, (SERVER_ADDRESS, PORT))
        wait_until(lambda: drops(office).total() >= len(said) + len(forged) - 1)
        assert place() == before
        thief.settimeout(0.3)
        with pytest.raises(TimeoutError):
            thief.recv(100)
    assert office.pings("laptop", OFFICE_ADDRESS, 10) == 10
    assert place() == before
    try:
        faults.renumber_home(lab, 7)
        office.wait_for_ping()
        assert place().startswith("198.18.1.7:")
    finally:
        faults.renumber_home(lab, 2)
