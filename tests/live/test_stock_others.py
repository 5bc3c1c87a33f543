"""Peers that share no line with the kernel's WireGuard, with wireguard-go or with us.

boringtun, in Rust, is in the phones' WARP app and in others; wireguard-protocol is pure Python.
"""

from __future__ import annotations

import base64
import hashlib
import os
import select
import socket
import threading
import time

import pytest
from wireguard.initiator import Initiator

from pyvpn.testing.lab import Lab
from pyvpn.testing.namespace import ip, stop, wait_for_line
from tests.live.office import OFFICE_ADDRESSES, Office, tell, wait_until
from tests.live.stock import PORT, SERVER_ADDRESS, SOCKETS, add_device, drops, peers_of
from tests.live.test_traffic import udp_packet

NAME = "boring0"


def test_boringtun(lab: Lab) -> None:
    """`pyvpn wg` and boringtun: pings of all sizes pass, and 8 MiB of TCP there and back."""
    keys = []
    for _ in range(2):
        private = lab.run("laptop", ["wg", "genkey"]).stdout.strip()
        keys.append((private, lab.run("laptop", ["wg", "pubkey"], input=private).stdout.strip()))
    (mine, own), (theirs, other) = keys
    log = lab.folder / "boring.log"
    words = [SERVER_ADDRESS, str(PORT), theirs, own]
    boring = lab.start("server", ["python", "-m", "tests.live.boring", *words], log)
    wait_for_line(log, "ready", process=boring)
    pyvpn = ["python", "-c", "from pyvpn.cli import main; main()"]
    device = lab.start("laptop", [*pyvpn, "wg", "-f", NAME], lab.folder / "wg.log")
    wait_until((SOCKETS / f"{NAME}.sock").exists)
    try:
        text = f"[Interface]\nPrivateKey = {mine}\n[Peer]\nPublicKey = {other}\n"
        text += f"AllowedIPs = 10.88.0.0/24\nEndpoint = {SERVER_ADDRESS}:{PORT}\n"
        lab.run("laptop", ["wg", "setconf", NAME, str(lab.write("boring.conf", text))])
        up = f"address add 10.88.0.2/24 dev {NAME}\nlink set {NAME} mtu 1420 up\n"
        ip("-n", "laptop", script=up)
        for size in 0, 1, 15, 16, 17, 1000, 1391, 1392:
            ping = ["ping", "-n", "-q", "-c", "2", "-i", "0.02", "-s", str(size), "10.88.0.9"]
            assert " 2 received" in lab.run("laptop", ping).stdout
        data = os.urandom(8 * 2**20)
        with lab.hosts["laptop"].inside():
            talking = socket.create_connection(("10.88.0.9", 80), 10)
        with talking:
            began = time.monotonic()
            sending = threading.Thread(target=talking.sendall, args=(data,), daemon=True)
            sending.start()
            came, size = hashlib.sha256(), 0
            while size < len(data) and (piece := talking.recv(65536)):
                came.update(piece)
                size += len(piece)
            sending.join(5)
        tell(f"boringtun: 8 MiB there and back in {time.monotonic() - began:.1f} s")
        assert came.digest() == hashlib.sha256(data).digest()
        [peer] = peers_of(lab, "laptop", NAME)
        assert peer.endpoint == f"{SERVER_ADDRESS}:{PORT}"
        assert peer.handshake > 0
        assert peer.received > len(data)
        assert boring.poll() is None
    finally:
        assert stop(device) == 0
        stop(boring)


@pytest.mark.parametrize("options", [(), ("--preshared-key",)])
def test_wireguard_protocol(office: Office, lab: Lab, options: tuple[str, ...]) -> None:
    """An initiator in pure Python: handshake, packets both ways, a second handshake."""
    office.open("[firewall]\nmasquerade = no\n")
    file = add_device(office, "anna", "phone", *options)
    secret = file.value("PresharedKey")
    with lab.hosts["laptop"].inside():
        outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with lab.hosts["office"].inside():
        echo = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with outside, echo:
        outside.connect((SERVER_ADDRESS, PORT))
        echo.bind(("", 7007))
        echo.settimeout(5)
        for number in range(2):
            initiator = Initiator(
                file.value("PrivateKey"),
                file.value("PublicKey"),
                base64.b64decode(secret) if secret else None,
            )
            came: list[bytes] = []
            initiator.on_message_rx(came.append)

            def turn(initiator: Initiator = initiator) -> bool:
                for datagram in initiator.update_state():
                    outside.send(datagram)
                if select.select([outside], [], [], 0.05)[0]:
                    initiator.decode_packet(outside.recv(2048))
                return initiator.state_connected

            wait_until(turn, what="a handshake")
            packets = [
                udp_packet(mine, there, bytes([number]) * size)
                for mine, there in zip(file.addresses, OFFICE_ADDRESSES, strict=True)
                for size in (0, 1, 16, 1000)
            ]
            for packet in packets:
                initiator.encode_transport(packet)
            turn()
            for _ in packets:
                echo.sendto(*echo.recvfrom(2048))
            wait_until(lambda: turn() and len(came) == len(packets), what="the echoes")  # noqa: B023
            # It gives packets with their padding, which is never more than 15 zeros.
            assert all(len(packet) % 16 == 0 for packet in came)
            assert [len(packet) for packet in came] == [
                -(-len(packet) // 16) * 16 for packet in packets
            ]
    assert drops(office) == {}
