"""What we change on the host, and how it gets back to what it was.

The TUN, its addresses and its routes vanish with the process, however that ends.  All else
(routing rules, guards, forwarding, the nft table) stays, so it is written into a journal
*before* it is made, and undone from there: at a clean stop, and at the start after a crash.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from ipaddress import ip_network

from twisted.logger import Logger

from pyvpn.errors import HostError
from pyvpn.net import netlink, nft
from pyvpn.net.journal import Guard, Journal, NftTable, Rule, Step, Sysctl, target_of
from pyvpn.net.netlink import Address, Network
from pyvpn.net.nft import Firewall
from pyvpn.net.sysctl import V4, V6, SysctlTree
from pyvpn.net.table_locks import TableLocks

__all__ = ["Address", "Firewall", "Host", "Network", "private_networks"]

_PRIVATE = tuple(
    ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


def private_networks(networks: Iterable[tuple[str, Network]]) -> list[tuple[str, Network]]:
    """Keep the networks nobody can have on the internet: RFC 1918's and IPv6 ULA."""
    return [(name, network) for name, network in networks if _is_private(network)]


class Host:
    """The host's network settings, as far as they are our business.

    Every method blocks for milliseconds and belongs into one thread.  Each may be called again
    with the same arguments: it changes only what differs, which is also how something that
    another program took away is put back.

    Args:
        state_dir: holds the journal ``host.json``; made (0700) if need be.
        tag: names us in the log (``server``, ``client``).

    Raises:
        HostError: the state directory cannot be used.
    """

    _log = Logger()

    def __init__(self, state_dir: str, tag: str) -> None:
        self._tag = tag
        try:
            os.makedirs(state_dir, mode=0o700, exist_ok=True)
        except OSError as error:
            raise HostError(
                f"{state_dir}: cannot be used as state directory: {error.strerror}"
            ) from error
        self._journal = Journal(os.path.join(state_dir, "host.json"))
        self._sysctls = SysctlTree()
        self._tables = TableLocks()
        self._bystanders: tuple[str, ...] | None = None
        # What the journal already had, and this run has not asked for again so far.
        self._left_behind = {target_of(step) for step in self._journal.steps}

    def settle(self) -> list[str]:
        """Undo what an earlier run left behind, except what this run made again meanwhile.

        To be called once everything wanted is made.  What both runs want stands all the while:
        were our table gone for a moment, the replies to masqueraded connections would meet the
        host itself, which would reset them.

        Returns:
            As :meth:`undo`.
        """
        left = [step for step in self._journal.steps if target_of(step) in self._left_behind]
        if self._left_behind:
            self._log.info("{tag}: an earlier run did not end well, tidied up", tag=self._tag)
            self._left_behind.clear()
        return self._undo_all(left)

    def _note(self, step: Step) -> None:
        self._journal.write(step)
        self._left_behind.discard(target_of(step))

    def reconcile(self) -> list[str]:
        """Undo all that an earlier run left behind; for one that makes nothing itself.

        Returns:
            What could not be undone, in words (logged as well); it stays in the journal.
        """
        if self._journal.steps:
            self._log.info("{tag}: an earlier run did not end well, tidying up", tag=self._tag)
        return self.undo()

    def undo(self) -> list[str]:
        """Undo all that the journal knows, last change first; what is gone already is no harm.

        Returns:
            What could not be undone, in words (logged as well); it stays in the journal.
        """
        problems = self._undo_all(self._journal.steps)
        self._tables.release()
        return problems

    def _undo_all(self, steps: Sequence[Step]) -> list[str]:
        problems = []
        undone = []
        for step in reversed(steps):
            try:
                self._undo(step)
            except Exception as error:  # noqa: BLE001 - one step must not keep the others from being tried
                problems.append(str(error))
            else:
                undone.append(step)
        try:
            self._journal.strike(*undone)
        except HostError as error:
            problems.append(str(error))
        for problem in problems:
            self._log.warn("{tag}: not undone: {problem}", tag=self._tag, problem=problem)
        return problems

    def link_up(self, name: str, mtu: int, addresses: Sequence[str]) -> int:
        """Give interface *name* exactly *addresses* (``10.73.0.1/24``) and *mtu*, and set it up.

        Returns:
            The interface's index.

        Raises:
            HostError: there is no such interface (any more), or the kernel refuses.
        """
        return netlink.set_link_up(name, mtu, addresses)

    def set_routes(
        self,
        index: int,
        networks: Iterable[Network],
        table: int | None = None,
        proto: int = netlink.PROTOCOL,
    ) -> list[Network]:
        """Route exactly *networks* into interface *index*, in *table* (None: the main one).

        Returns:
            Those that another route claims in that table; they are as they were.

        Raises:
            HostError: the interface is gone or down, or the kernel refuses.
        """
        return netlink.set_routes(index, networks, table, proto)

    def routes_of(self, index: int, table: int | None = None) -> set[Network]:
        """Return what `set_routes` has routed into interface *index* in *table*."""
        return netlink.routes_of(index, table)

    def guard(self, networks: Iterable[Network]) -> None:
        """Make exactly *networks* unreachable while nothing better leads there.

        So packets for clients never leave by the default route while the TUN is gone.

        Raises:
            HostError: the kernel refuses.
        """
        wanted = [Guard(str(network)) for network in networks]
        for guard in wanted:
            self._note(guard)
            netlink.add_unreachable(ip_network(guard.network))
        for step in self._journal.steps:
            if isinstance(step, Guard) and step not in wanted:
                self._undo(step)
                self._journal.strike(step)

    def hold_table(self, table: int) -> None:
        """Have routing table *table* for this process alone, until :meth:`undo`.

        Raises:
            HostError: another client on this host has it.
        """
        self._tables.hold(table)

    def add_rule(self, mark: int, table: int) -> None:
        """Let everything but packets marked *mark* look into *table* before the main one.

        For IPv4 and IPv6; a version that the kernel does not know is left out.

        Raises:
            HostError: the kernel refuses.
        """
        self._tables.hold(table)
        for version in 4, 6:
            step = Rule(version, mark, table)
            self._note(step)
            if not netlink.add_rule(version, mark, table):
                self._journal.strike(step)

    def forwarding(self, v4: bool, v6: bool) -> None:
        """Switch forwarding on where asked; it is never switched off but by `undo`.

        Interfaces that live by router advertisements go on doing so.

        Raises:
            HostError: the kernel or the container refuses.
        """
        if v4:
            self._keep_sysctls("net/ipv4/")
            self._set(self._sysctls.forwarding4())
        if v6:
            self._keep_sysctls("net/ipv6/")
            self._set(self._sysctls.forwarding6(netlink.fed_by_advertisements()))

    def forwarding_is_ours(self) -> tuple[int, ...]:
        """Return the IP versions, 4 and 6, that nobody forwarded here before we did."""
        switches = {4: V4, 6: V6}
        paths = {step.path for step in self._journal.steps if isinstance(step, Sysctl)}
        return tuple(version for version, path in switches.items() if path in paths)

    def bystanders(self, device: str) -> tuple[str, ...]:
        """Return the interfaces of our first look that have nothing to do with the tunnel.

        Between them nothing was forwarded before we switched it on, so nothing shall be now.
        Interfaces that come later, and bridges, are somebody's who wants to forward (Docker).
        """
        if self._bystanders is None:
            self._bystanders = netlink.plain_interfaces()
        return tuple(name for name in self._bystanders if name != device)

    def loosen_reverse_path(self) -> None:
        """Let replies in whose way back would be the tunnel (``rp_filter`` strict to loose).

        With a default route into the tunnel that is every reply to our own, marked connection.

        Raises:
            HostError: the kernel or the container refuses.
        """
        self._set(self._sysctls.loose_reverse_path())

    def firewall(self, firewall: Firewall) -> None:
        """Make our nft table what *firewall* says, in one step.

        Raises:
            HostError: nft is missing or refuses.
        """
        nft.find_nft()  # before it is noted: without nft, what was not made cannot be undone
        self._note(NftTable(nft.table_name(firewall.device)))
        nft.run_nft(nft.ruleset(firewall))

    def leave_firewall(self) -> None:
        """Take our table and our forwarding back, if there are any: somebody else does it now.

        Raises:
            HostError: nft is missing or refuses.
        """
        for step in reversed(self._journal.steps):
            if isinstance(step, NftTable | Sysctl):
                self._undo(step)
                self._journal.strike(step)

    def firewall_stands(self, device: str) -> bool:
        """Tell whether our table for *device* is still there.

        Raises:
            HostError: nft is missing or refuses.
        """
        return nft.table_stands(nft.table_name(device))

    def forward_droppers(self) -> list[str]:
        """Return other firewalls' chains (``ip filter FORWARD``) that drop what is forwarded.

        Raises:
            HostError: nft is missing or refuses.
        """
        return nft.forward_droppers()

    def own_networks(self, exclude: Iterable[str] = ()) -> list[tuple[str, Network]]:
        """Return interface and network of each address of our up interfaces, but *exclude*.

        Without loopback, link-local networks and single addresses.
        """
        return netlink.own_networks(exclude)

    def local_networks(self, exclude: Iterable[str] = ()) -> list[tuple[str, Network]]:
        """Return interface and network of all that is reached without a gateway.

        Public networks, link-local ones and single addresses included.
        """
        return netlink.local_networks(exclude)

    def default_source(self, version: int, mark: int = 0) -> Address | None:
        """Return the address from which packets with *mark* reach the world; None: they do not.

        *version* is 4 or 6.
        """
        return netlink.default_source(version, mark)

    def _keep_sysctls(self, prefix: str) -> None:
        """Take over what an earlier run switched on: being on, it is not planned again."""
        self._left_behind -= {
            target_of(step)
            for step in self._journal.steps
            if isinstance(step, Sysctl) and step.path.startswith(prefix)
        }

    def _set(self, steps: Iterable[Sysctl]) -> None:
        planned = list(steps)
        for step in planned:  # all of them first: the switch, once turned, hides what was
            self._note(step)
        for step in planned:
            if step.new is not None:
                self._sysctls.write(step.path, step.new)

    def _undo(self, step: Step) -> None:
        match step:
            case Sysctl():
                self._sysctls.undo(step)
            case NftTable(name):
                nft.run_nft(nft.removal(name))
            case Rule(version, mark, table):
                if self._tables.try_hold(table):  # else it is another client's by now
                    netlink.delete_rule(version, mark, table)
            case Guard(network):
                netlink.delete_unreachable(ip_network(network))


def _is_private(network: Network) -> bool:
    return any(
        network.version == private.version and network.subnet_of(private)  # type: ignore[arg-type]
        for private in _PRIVATE
    )
