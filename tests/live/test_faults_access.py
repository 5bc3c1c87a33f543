"""Somebody loses the right to be here while all that is theirs is at work, and resists."""

from __future__ import annotations

import re
import threading
import time
from contextlib import ExitStack, suppress

from pyvpn.net.process import boottime
from pyvpn.testing.lab import OFFICE_ADDRESS, Lab
from pyvpn.testing.vpn import PASSWORD
from tests.live.core import Core
from tests.live.figures import below
from tests.live.hostile_lab import dial
from tests.live.native import GOODBYE, HEARTBEAT, REGISTER, Talk
from tests.live.office import Office, tell, wait_until
from tests.live.stock import App, add_device, command
from tests.live.travellers import KINDS, three_hosts

CUT_SECONDS = 1.0


class Stubborn(threading.Thread):
    """Logs in, registers, and from then on does so again and again, with goodbyes between."""

    def __init__(self, lab: Lab, host: str, user: str) -> None:
        super().__init__(daemon=True)
        self._lab, self._host, self._user = lab, host, user
        self.accepted: list[float] = []
        """When a registration was answered with yes (unix)."""
        self.refused = 0
        self.over = False

    def run(self) -> None:
        while not self.over:
            with suppress(OSError, AssertionError), dial(self._lab, self._host) as talk:
                if talk.log_in(self._user, PASSWORD)["success"]:
                    self._insist(talk)
                else:
                    self.refused += 1
            time.sleep(0.05)

    def _insist(self, talk: Talk) -> None:
        for number in range(1000):
            if self.over:
                return
            talk.say(HEARTBEAT)
            if not talk.ask(REGISTER)["success"]:
                return
            self.accepted.append(time.time())
            if number % 20 == 19:
                talk.say(GOODBYE)


class Knocking(threading.Thread):
    """A peer without an interface that begins a handshake ten times a second."""

    def __init__(self, core: Core) -> None:
        super().__init__(daemon=True)
        self._core = core
        self.shaken: list[float] = []
        """When a handshake was completed (unix)."""
        self.over = False

    def run(self) -> None:
        while not self.over:
            before = self._core.wireguard.handshakes
            self._core.peer.initiate(boottime())
            self._core.run(0.1)
            if self._core.wireguard.handshakes > before:
                self.shaken.append(time.time())


def test_locked_out(office: Office, lab: Lab) -> None:
    """D22: a user is disabled: nothing of hers passes from a second later on, whatever they do.

    Her three devices are our client by UDP, by TLS, and an app; two more resist: one logs in
    and out without end, one begins handshakes. Another user notices nothing, and she herself is
    back when she is let in again.
    """
    office.open(users=("anna", "bert"))
    hosts = three_hosts(lab)
    other = lab.add_laptop()
    with ExitStack() as stack:
        for kind, host in zip(KINDS[:2], hosts[:2], strict=True):
            office.join(host, "anna", more=f"transport = {kind}\n")
        stack.enter_context(App(lab, hosts[2], add_device(office, "anna")))
        stack.enter_context(App(lab, other, add_device(office, "bert")))
        file = add_device(office, "anna", "knocking")
        knocking = Knocking(stack.enter_context(Core(lab, other, file)))
        stubborn = Stubborn(lab, other, "anna")
        for thread in knocking, stubborn:
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, thread, "over", True)
        for host in (*hosts, other):
            office.wait_for_ping(host)
        hers = [stack.enter_context(office.steady_ping(host)) for host in hosts]
        his = stack.enter_context(office.steady_ping(other))
        wait_until(lambda: bool(stubborn.accepted and knocking.shaken), what="all of them at work")

        command(office, "user", "disable", "anna")
        locked = time.time()
        time.sleep(4)
        last = {
            kind: max(when for when, _ in ping.replies) - locked
            for kind, ping in zip(KINDS, hers, strict=True)
        }
        last["logging in"] = stubborn.accepted[-1] - locked
        last["shaking hands"] = knocking.shaken[-1] - locked
        tell("locked out, last sign: " + ", ".join(f"{k} {v:.2f} s" for k, v in last.items()))
        assert {who: when for who, when in last.items() if when > CUT_SECONDS} == {}
        assert stubborn.refused > 0
        # Who logs in without end may be at it just now.
        assert re.search(r" 0 sessions, [01] connections, 0 addresses in use", office.status())

        # The twin: of another nothing was lost, and it is her account that makes the difference.
        stubborn.over = knocking.over = True
        command(office, "user", "enable", "anna")
        below(office.wait_for_ping(hosts[2], OFFICE_ADDRESS), 7)
        his.end()
        below(his.gap, 1.0)
