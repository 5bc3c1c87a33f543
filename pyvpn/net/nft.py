"""The one nftables table that a server needs, as JSON, and ``nft`` that takes it.

The table is replaced as a whole in one transaction: at every moment there is the old one or
the new one, and never a packet that meets half of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyvpn.errors import HostError

Network = IPv4Network | IPv6Network
Json = dict[str, Any]

_SECONDS = 10.0  # 8 ms are usual
# Debian keeps nft where ordinary users, and so our unprivileged service, do not look.
_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_LEAVE_IT = "or write  [firewall] manage = no  and do what it does by other means"


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """What the table is to do for the tunnel *device*.

    *networks* are the pools; with *masquerade* what comes from them leaves by other
    interfaces under the host's own address.  *plain_networks* (of the first generation's
    clients, masqueraded likewise) reach, and are reached from, *plain_bypass* alone.
    Between *bystanders*, interfaces that are not the tunnel, nothing of *bystander_versions* is
    forwarded: our switching forwarding on must not make a router of a host that was none.
    """

    device: str
    networks: tuple[Network, ...]
    masquerade: bool = True
    client_to_client: bool = False
    plain_networks: tuple[IPv4Network, ...] = ()
    plain_bypass: IPv4Network | None = None
    bystanders: tuple[str, ...] = ()
    bystander_versions: tuple[int, ...] = ()


def table_name(device: str) -> str:
    """Return the name of our table for *device*: nft's words are letters, digits and _."""
    return "pyvpn_" + "".join(c if c.isalnum() and c.isascii() else "_" for c in device)


def ruleset(firewall: Firewall) -> Json:
    """Return the transaction that replaces our table, as libnftables-json(5) wants it."""
    name = table_name(firewall.device)
    table: Json = {"table": {"family": "inet", "name": name}}
    return {
        "nftables": [
            {"add": table},  # so that there is one to delete
            {"delete": table},
            {"add": table},
            _chain(name, "nat_postrouting", "nat", "postrouting", 100),
            _chain(name, "clamp_forward", "filter", "forward", -150),  # where mangling is usual
            _chain(name, "filter_forward", "filter", "forward", 0),
            _chain(name, "filter_input", "filter", "input", 0),
            *(_rule(name, "nat_postrouting", r) for r in _masquerade(firewall)),
            *(_rule(name, "clamp_forward", r) for r in _clamp(firewall)),
            *(_rule(name, "filter_forward", r) for r in _forward(firewall)),
            *(_rule(name, "filter_input", r) for r in _input(firewall)),
        ]
    }


def removal(name: str) -> Json:
    """Return the transaction that removes table *name*, and does nothing if it is gone."""
    table: Json = {"table": {"family": "inet", "name": name}}
    return {"nftables": [{"add": table}, {"delete": table}]}


def run_nft(transaction: Json) -> None:
    """Have the kernel do all of *transaction*, or nothing.

    Raises:
        HostError: nft is missing or refused; the text has the cure or its own words.
    """
    _nft(["-j", "-f", "-"], json.dumps(transaction))


def table_stands(name: str) -> bool:
    """Tell whether table *name* is there (somebody may have flushed the whole ruleset)."""
    listing = json.loads(_nft(["-j", "list", "tables", "inet"], ""))
    return any(entry.get("table", {}).get("name") == name for entry in listing["nftables"])


def forward_droppers() -> list[str]:
    """Return the other firewalls' chains that drop forwarded packets unless told otherwise.

    Docker and ufw make such chains.  A verdict of ours cannot overrule them, so the operator
    has to hear of them.

    Raises:
        HostError: nft is missing or refuses.
    """
    listing = json.loads(_nft(["-j", "list", "chains"], ""))
    chains = (entry["chain"] for entry in listing["nftables"] if "chain" in entry)
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop"
    ]


def find_nft() -> str:
    """Return where the program is.

    Raises:
        HostError: nowhere; the text has the cure.
    """
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *_FOLDERS))
    program = shutil.which("nft", path=path)
    if program is None:
        raise HostError(f"nft is missing: install the package nftables, {_LEAVE_IT}")
    return program


def _nft(arguments: list[str], text: str) -> str:
    program = find_nft()
    try:
        done = subprocess.run(
            [program, *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise HostError(f"nft did not end within {_SECONDS:g} s; try again, {_LEAVE_IT}") from None
    except OSError as error:
        raise HostError(f"{program} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise HostError(
            f"nft refused: {said[0]}. It takes CAP_NET_ADMIN and a kernel with "
            f"nf_tables, {_LEAVE_IT}"
        )
    return done.stdout


def _masquerade(firewall: Firewall) -> list[list[Json]]:
    """Replace the source of what leaves the tunnel for elsewhere.

    Fully random ports: with predictable ones a client can aim at another's connections
    (port shadowing, CVE-2021-3773).
    """
    if not firewall.masquerade:
        return []
    return [
        [
            _address("saddr", "==", source),
            _interface("oifname", "!=", firewall.device),
            {"masquerade": {"flags": "fully-random"}},
        ]
        for source in (*firewall.networks, *firewall.plain_networks)
    ]


def _clamp(firewall: Firewall) -> list[list[Json]]:
    """Cut the segment size both ends announce to what the smaller of both routes carries.

    ``rt mtu`` is the lower of the route there and the route back, so one rule for each
    direction is enough even where the tunnel's MTU is the server's own choice.
    """
    syn = {
        "match": {
            "op": "==",
            "left": {
                "&": [{"payload": {"protocol": "tcp", "field": "flags"}}, {"|": ["syn", "rst"]}]
            },
            "right": "syn",
        }
    }
    size = {"tcp option": {"name": "maxseg", "field": "size"}}
    clamp = {"mangle": {"key": size, "value": {"rt": {"key": "mtu"}}}}
    return [[_interface(key, "==", firewall.device), syn, clamp] for key in ("iifname", "oifname")]


def _forward(firewall: Firewall) -> list[list[Json]]:
    """Keep clients apart, and those of the first generation within their bypass, both ways."""
    rules = []
    inward = _interface("iifname", "==", firewall.device)
    outward = _interface("oifname", "==", firewall.device)
    bypass = firewall.plain_bypass
    for plain in firewall.plain_networks:
        for way, own, other in (inward, "saddr", "daddr"), (outward, "daddr", "saddr"):
            beyond = [] if bypass is None else [_address(other, "!=", bypass)]
            rules.append([way, _address(own, "==", plain), *beyond, *_drop()])
    if not firewall.client_to_client:
        rules.append([inward, outward, *_drop()])
    if len(firewall.bystanders) > 1:
        names = {"set": list(firewall.bystanders)}
        between = [
            {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": names}}
            for key in ("iifname", "oifname")
        ]
        rules += [
            [_family(version), *between, *_drop()] for version in firewall.bystander_versions
        ]
    return rules


def _input(firewall: Firewall) -> list[list[Json]]:
    """Keep the first generation's clients from the server itself, but for its tunnel address."""
    inward, bypass = _interface("iifname", "==", firewall.device), firewall.plain_bypass
    beyond = [] if bypass is None else [_address("daddr", "!=", bypass)]
    return [
        [
            inward,
            _address("saddr", "==", plain),
            _address("daddr", "!=", plain),
            *beyond,
            *_drop(),
        ]
        for plain in firewall.plain_networks
    ]


def _family(version: int) -> Json:
    right = {4: "ipv4", 6: "ipv6"}[version]
    return {"match": {"op": "==", "left": {"meta": {"key": "nfproto"}}, "right": right}}


def _drop() -> list[Json]:
    return [{"counter": None}, {"drop": None}]


def _chain(table: str, name: str, kind: str, hook: str, priority: int) -> Json:
    chain = {"family": "inet", "table": table, "name": name, "type": kind, "hook": hook}
    return {"add": {"chain": {**chain, "prio": priority, "policy": "accept"}}}


def _rule(table: str, chain: str, expressions: list[Json]) -> Json:
    rule = {"family": "inet", "table": table, "chain": chain, "expr": expressions}
    return {"add": {"rule": rule}}


def _interface(key: str, operator: str, name: str) -> Json:
    return {"match": {"op": operator, "left": {"meta": {"key": key}}, "right": name}}


def _address(field: str, operator: str, network: Network) -> Json:
    protocol = "ip" if network.version == 4 else "ip6"
    prefix = {"addr": str(network.network_address), "len": network.prefixlen}
    left = {"payload": {"protocol": protocol, "field": field}}
    return {"match": {"op": operator, "left": left, "right": {"prefix": prefix}}}
