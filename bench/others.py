"""VPNs that are not ours, each as its own manual would have it set up."""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
import subprocess
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.contenders import MTU, Contender, tool
from bench.pair import SERVER
from pyvpn.errors import HostError
from pyvpn.testing.namespace import wait_for_line

PASSWORD = "correct horse battery staple"  # noqa: S105 - of nobody


class Certified:
    """A key, with a certificate that it has signed itself."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=30))
            .sign(key, hashes.SHA256())
        )
        encoding = serialization.Encoding
        self.certificate = made.public_bytes(encoding.PEM).decode()
        self.key = key.private_bytes(
            encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        self.fingerprint = made.fingerprint(hashes.SHA256()).hex(":").upper()
        spki = key.public_key().public_bytes(
            encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.pin = base64.b64encode(hashlib.sha256(spki).digest()).decode()


def _said(*command: str) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


class OpenVpn(Contender):
    """OpenVPN over UDP with AES-256-GCM, one end to the other."""

    name = "OpenVPN"
    needs = ("openvpn",)

    @classmethod
    def version(cls) -> str:
        found = re.search(r"^OpenVPN (\S+)", _said(tool("openvpn") or "openvpn", "--version"))
        return f"OpenVPN {found[1]}" if found else ""

    def start(self) -> None:
        self.address = "10.97.0.2"
        ends = {"server": Certified(), "client": Certified()}
        self.servers = [self._run("server", ends["server"], ends["client"])]
        time.sleep(0.5)
        began = time.monotonic()
        self.clients = [self._run("client", ends["client"], ends["server"])]
        self._wait_for_ping(began)

    def _run(self, side: str, own: Certified, other: Certified) -> int:
        serving = side == "server"
        mine, its = ("10.97.0.2", "10.97.0.1") if serving else ("10.97.0.1", "10.97.0.2")
        certificate = self.pair.write(f"{side}.crt", own.certificate)
        key = self.pair.write(f"{side}.key", own.key)
        where = ["tls-server", "dh none"] if serving else ["tls-client", f"remote {SERVER}"]
        lines = [
            *where,
            "proto udp",
            "port 1194",
            "dev tun0",
            "dev-type tun",
            f"ifconfig {mine} {its}",
            f"tun-mtu {MTU}",
            f"cert {certificate}",
            f"key {key}",
            f"peer-fingerprint {other.fingerprint}",
            "data-ciphers AES-256-GCM",
            "cipher AES-256-GCM",
        ]
        config = self.pair.write(f"{side}.ovpn", "\n".join(lines) + "\n")
        host = self.pair.server if serving else self.pair.client
        log = self.pair.folder / f"openvpn-{side}.log"
        return self.pair.start(host, ["openvpn", "--config", str(config)], log).pid


class Ocserv(Contender):
    """ocserv and openconnect, by TLS over TCP."""

    name = "ocserv TLS"
    needs = ("ocserv", "ocpasswd", "openconnect")
    by_udp = False
    """Whether DTLS carries the packets once it is up."""
    is_up = "Connected|onfigured as"
    """What the client then writes."""

    @classmethod
    def version(cls) -> str:
        server = re.search(r"([\d.]+)", _said(tool("ocserv") or "ocserv", "--version"))
        client = re.search(
            r"OpenConnect version v?(\S+)", _said(tool("openconnect") or "openconnect", "-V")
        )
        found = [each[1] for each in (server, client) if each]
        return f"ocserv {', openconnect '.join(found)}" if found else ""

    def start(self) -> None:
        self.address = "10.98.0.1"
        own = Certified()
        folder = self.pair.folder
        passwords = folder / "ocpasswd"
        self.pair.run(
            self.pair.server,
            ["ocpasswd", "-c", str(passwords), "anna"],
            input=f"{PASSWORD}\n{PASSWORD}\n",
        )
        lines = [
            f'auth = "plain[passwd={passwords}]"',
            "tcp-port = 443",
            *(["udp-port = 443"] if self.by_udp else []),
            f"socket-file = {folder}/ocserv.sock",
            f"pid-file = {folder}/ocserv.pid",
            f"server-cert = {self.pair.write('ocserv.crt', own.certificate)}",
            f"server-key = {self.pair.write('ocserv.key', own.key)}",
            "run-as-user = root",
            "run-as-group = root",
            "isolate-workers = false",
            "use-occtl = false",
            "max-clients = 4",
            "device = vpns",
            "ipv4-network = 10.98.0.0/24",
            f"mtu = {MTU}",
            "try-mtu-discovery = false",
            'tls-priorities = "NORMAL:-VERS-ALL:+VERS-TLS1.3"',
        ]
        config = self.pair.write("ocserv.conf", "\n".join(lines) + "\n")
        log = folder / "ocserv.log"
        serve = ["ocserv", "--foreground", "--config", str(config)]
        self.pair.start(self.pair.server, serve, log)
        self._wait(
            lambda: ":443" in self.pair.run(self.pair.server, ["ss", "-Hltn"]).stdout, "ocserv"
        )
        began = time.monotonic()
        self.clients = [self._call(own)]
        self._wait_for_ping(began)
        # It has a process for each client, among others.
        self.servers = self.pair.hosts[self.pair.server].processes()

    def _call(self, server: Certified) -> int:
        script = self.pair.write(
            "oc-script",
            "#!/bin/sh\n"
            '[ "$reason" = connect ] || exit 0\n'
            f'ip link set dev "$TUNDEV" mtu {MTU} up\n'
            'ip address add "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"\n'
            'ip route add 10.98.0.0/24 dev "$TUNDEV"\n',
        )
        script.chmod(0o700)
        secret = self.pair.write("oc-password", f"{PASSWORD}\n")
        call = [
            *("openconnect", "--protocol=anyconnect", "--user=anna"),
            *([] if self.by_udp else ["--no-dtls"]),
            *("--passwd-on-stdin", f"--servercert=pin-sha256:{server.pin}", "--interface=oc0"),
            *(f"--script={script}", SERVER),
        ]
        # It reads the password from standard input, and shells can redirect it for what they exec.
        shell = ["sh", "-c", f'exec "$@" < {secret}', "sh", *call]
        log = self.pair.folder / "openconnect.log"
        process = self.pair.start(self.pair.client, shell, log)
        try:
            wait_for_line(log, self.is_up, 20, process)
        except HostError as error:
            raise HostError(f"{self.title}: {error}") from error
        return process.pid


class OcservDtls(Ocserv):
    """The same, by DTLS over UDP."""

    name = "ocserv DTLS"
    by_udp = True
    is_up = "Established DTLS connection"


class Tinc(Contender):
    """tinc 1.0 by UDP, with AES-256 and SHA-256 in place of its Blowfish and SHA-1."""

    name = "tinc"
    needs = ("tincd",)

    @classmethod
    def version(cls) -> str:
        found = re.search(r"^tinc version (\S+)", _said(tool("tincd") or "tincd", "--version"))
        return f"tinc {found[1]}" if found else ""

    def start(self) -> None:
        self.address = "10.96.0.2"
        for side in "server", "client":
            self._configure(side)
        for own, other in ("server", "client"), ("client", "server"):
            card = (self.pair.folder / f"tinc-{own}" / "hosts" / own).read_text()
            self.pair.write(f"tinc-{other}/hosts/{own}", card)
        self.servers = [self._run("server", self.pair.server)]
        began = time.monotonic()
        self.clients = [self._run("client", self.pair.client)]
        self._wait_for_ping(began)

    def _configure(self, side: str) -> None:
        """Write one end's folder, and make its key."""
        serving = side == "server"
        folder = self.pair.folder / f"tinc-{side}"
        (folder / "hosts").mkdir(parents=True)
        number = 2 if serving else 1
        lines = [f"Name = {side}", "DeviceType = tun", "Interface = tinc0"]
        self.pair.write(
            f"tinc-{side}/tinc.conf",
            "\n".join(lines if serving else [*lines, "ConnectTo = server"]) + "\n",
        )
        card = [f"Subnet = 10.96.0.{number}/32", "Cipher = aes-256-cbc", "Digest = sha256"]
        if serving:
            card.append(f"Address = {SERVER}")
        self.pair.write(f"tinc-{side}/hosts/{side}", "\n".join(card) + "\n")
        script = self.pair.write(
            f"tinc-{side}/tinc-up",
            "#!/bin/sh\n"
            f'ip link set dev "$INTERFACE" mtu {MTU} up\n'
            f'ip address add 10.96.0.{number}/24 dev "$INTERFACE"\n',
        )
        script.chmod(0o700)
        host = self.pair.server if serving else self.pair.client
        self.pair.run(host, ["tincd", "-c", str(folder), "-K2048"], input="\n\n")

    def _run(self, side: str, host: str) -> int:
        folder = self.pair.folder / f"tinc-{side}"
        run = ["tincd", "-c", str(folder), "-D", f"--pidfile={folder}/pid"]
        return self.pair.start(host, run, self.pair.folder / f"tinc-{side}.log").pid
