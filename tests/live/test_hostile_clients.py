"""One hostile client at a time: it guesses, it does not read, it speaks an old TLS."""

from __future__ import annotations

import re
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from pyvpn.testing import vpn
from pyvpn.testing.lab import SERVER_ADDRESS, Lab
from pyvpn.testing.namespace import stop
from tests.live.hostile_lab import PORT, Costs, dial
from tests.live.native import HEARTBEAT, LOG_IN, VERSION, Talk, encode_frame, trusting_context

FLOOD = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
sent, end = 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    for _ in range(100):
        sent += s.sendto(bytes(1300), (sys.argv[1], 9999))
    time.sleep(0.003)
print(sent)
"""
ENDED = r"closed|reset|EOF|Broken|bad length"  # the words of an OSError then
UNREAD_MB = 5  # growth that a client who does not read may cause


@pytest.fixture(scope="module")
def server(lab: Lab) -> Iterator[vpn.Program]:
    """Our server as it comes, with three users."""
    program = vpn.start_server(lab)
    vpn.link(program)
    for user in ("anna", "boris", "mallory"):
        vpn.add_user(lab, program, user)
    yield program
    assert stop(program.process) == 0
    assert "Traceback" not in program.log.read_text()


@pytest.mark.parametrize(
    ("option", "works"), [("-tls1_3", True), ("-tls1_2", False), ("-tls1_1", False)]
)
def test_tls_versions(lab: Lab, server: vpn.Program, option: str, works: bool) -> None:
    """TLS 1.3 and nothing older, also for a client that could do better."""
    program = ["openssl", "s_client", option, "-cipher", "DEFAULT:@SECLEVEL=0"]
    program += ["-connect", f"{SERVER_ADDRESS}:{PORT}"]
    ended = lab.run("laptop", program, check=False, input="")
    said = ended.stdout + ended.stderr
    assert ("TLS_AES_" in said) == works
    assert ("alert protocol version" in said) != works
    assert ("Cipher is (NONE)" in said) != works


def test_nothing_but_log_in(lab: Lab, server: vpn.Program) -> None:
    """Before log-in all else is refused with one word or none, and the third time ends it."""
    with dial(lab) as talk:
        for command in (1, HEARTBEAT, 77):
            assert talk.ask(command)["code"] == "not-logged-in"
        with pytest.raises(OSError, match=ENDED):
            talk.ask(1)
    with dial(lab) as talk:
        talk.say(2, bytes(40))
        assert talk.ask(1)["code"] == "not-logged-in"
        talk.say(2, bytes(40))
        with pytest.raises(OSError, match=ENDED):
            talk.ask(1)


@pytest.mark.parametrize("length", [-1, 0, 7, 4097, 2**31 - 1])
def test_frame_lengths(lab: Lab, server: vpn.Program, length: int) -> None:
    """A length that no frame has ends the connection, at once or after three times."""
    with dial(lab) as talk, suppress(ConnectionResetError, ssl.SSLError):
        talk.sock.sendall(
            3 * (length.to_bytes(4, "big", signed=True) + bytes(max(0, min(length, 7))))
        )
        talk.sock.settimeout(3)
        assert talk.sock.recv(100) == b""


def test_frame_length_after_log_in(lab: Lab, server: vpn.Program) -> None:
    """Whoever is known may send whole packets, and no more than that at once."""
    for length, survives in (65_543, True), (65_544, False):
        with dial(lab) as talk:
            assert talk.log_in("boris", vpn.PASSWORD)["code"] == "ok"
            assert talk.register()["code"] == "ok"
            if survives:
                talk.say(2, bytes(length - 8))
                assert talk.ask(HEARTBEAT) == {}
            else:
                with suppress(OSError):  # it may close while this is on its way
                    talk.say(2, bytes(length - 8))
                with pytest.raises(OSError, match=ENDED):
                    talk.ask(HEARTBEAT)


def test_one_who_does_not_read(lab: Lab, server: vpn.Program) -> None:
    """Flooded from the office, a client who never reads costs little and disturbs nobody."""
    anna = vpn.start_client(lab, vpn.link(server), "anna")
    anna.says("routes into the tunnel")
    name = lab.add_laptop()
    with lab.hosts[name].inside():
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((SERVER_ADDRESS, PORT))
    talk = Talk(sock)
    assert talk.log_in("mallory", vpn.PASSWORD)["code"] == "ok"
    lease = talk.register()["address4"].partition("/")[0]
    lab.run("office", [sys.executable, "-c", FLOOD, "10.73.0.2", "0.2"])  # buffers that all have
    costs = Costs(server.process.pid)
    flooding = threading.Event()

    def beat() -> None:  # alive, as far as the server can tell
        for number in range(100, 200):
            if flooding.wait(1):
                return
            talk.sock.sendall(encode_frame(HEARTBEAT, number))

    heart = threading.Thread(target=beat)
    heart.start()
    log = lab.folder / "udp.log"
    flood = lab.start("office", [sys.executable, "-c", FLOOD, lease, "8"], log)
    try:
        with costs.watched():
            ping = ["ping", "-n", "-i", "0.2", "-c", "30", "-W", "1", "192.168.77.20"]
            said = lab.run("laptop", ping, check=False).stdout
            assert flood.wait(20) == 0
    finally:
        flooding.set()
        heart.join()
    sent = int(log.read_text())
    answered = re.search(r"(\d+) received", said)
    assert answered
    assert int(answered[1]) >= 28, said
    assert sent > 50_000_000
    assert costs.most_rss - costs.rss < UNREAD_MB
    server.process.send_signal(signal.SIGUSR2)
    dropped = server.says(r"dropped (\d+) packets: queue-full")
    assert int(dropped[1]) > sent / 1300 / 2
    kept = server.says(r"mallory/.*out \d+ packets \d+ bytes, heard \d s ago(.*)")
    assert kept[1] == ", by TCP"  # still connected: to read late is no crime
    talk.close()
    assert stop(anna.process) == 0


def guess(lab: Lab, host: str, user: str, seconds: float) -> tuple[int, float]:
    """Guess at *user* from *host* for *seconds*: how many were looked at, longest wait."""
    evaluated, longest = 0, 0.0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError), dial(lab, host) as talk:  # three refusals end a connection
            while time.monotonic() < until:
                answer = talk.log_in(user, f"guess {time.monotonic()}")
                assert answer["success"] is False
                if answer["code"] == "bad-credentials":
                    evaluated += 1
                else:
                    assert answer["code"] == "slow-down"
                    longest = max(longest, answer["retry_after"])
    return evaluated, longest


@pytest.mark.parametrize("user", ["boris", "nobody"])
def test_guessing(lab: Lab, server: vpn.Program, user: str) -> None:
    """Guesses from one address become slow, whether the name exists or not; others get in."""
    evaluated, longest = guess(lab, lab.add_laptop(at_home=False), user, 10)
    # Three are free, then pauses of 1, 2 and 4 s; the next is 8 s.
    assert 4 <= evaluated <= 6
    assert 7 < longest <= 8
    host = lab.add_laptop(at_home=False)
    with dial(lab, host) as talk:
        assert talk.log_in("boris", vpn.PASSWORD)["code"] == "ok"
        assert talk.register()["code"] == "ok"


def test_same_answer(lab: Lab, server: vpn.Program) -> None:
    """A wrong password and an unknown name are answered by the same bytes."""
    answers = []
    for user in ("anna", "nobody-at-all"):
        host = lab.add_laptop(at_home=False)
        with dial(lab, host) as talk:
            answers.append(talk.ask(LOG_IN, user=user, password="wrong"))
    assert answers[0] == answers[1]
    assert answers[0]["code"] == "bad-credentials"


def test_silence_after_half_a_log_in(lab: Lab, server: vpn.Program) -> None:
    """A peer that hangs up in the middle of anything leaves no line of its own in the log."""
    before = len(server.log.read_text().splitlines())
    question = encode_frame(LOG_IN, 1, b'{"user":"anna","password":"x"}')
    whole = VERSION + question
    host = lab.add_laptop(at_home=False)
    for size in (0, 1, 7, 8, 9, 11, 12, 20, len(whole) - 1):
        with lab.hosts[host].inside():
            sock = socket.create_connection((SERVER_ADDRESS, PORT), 10)
        secured = trusting_context().wrap_socket(sock)
        secured.sendall(whole[:size])
        secured.close()
    with dial(lab, host) as talk:
        assert talk.ask(77)["code"] == "not-logged-in"
    assert len(server.log.read_text().splitlines()) == before
