"""Which cipher native ends agree on, whatever the network and either end's past."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pyvpn.crypto.suite import AES_GCM, CHACHA
from tests.simulator.native_lab import Lab

AES = AES_GCM.name, AES_GCM.name
PLAIN = CHACHA.name, CHACHA.name


def ciphers(lab: Lab) -> tuple[str, str]:
    """What the first client's packets are sealed with, and what the server's to it."""
    session = lab.server.session("native0")
    peer = None if session is None else session.peer
    return lab.client.data.cipher, getattr(peer, "cipher", "")


class CipherTests(SynchronousTestCase):
    """One client with a processor for AES, and a server like that."""

    def test_both(self) -> None:
        """They agree on it from the first handshake, and keep it: no packet is lost."""
        lab = Lab(1, 1)
        lab.meet()
        self.assertEqual(AES, ciphers(lab))
        [talk, stock] = lab.talk(400)
        self.assertEqual((0, 0), (talk.lost, stock.lost))
        self.assertEqual(AES, ciphers(lab))
        self.assertEqual(0, lab.server.counters.dropped["bad-handshake"])

    def test_one(self) -> None:
        """Where one end has no instructions for it nobody tries, whichever end that is."""
        for at_server in True, False:
            lab = Lab()
            lab.meet()
            lab.client.kill()
            if at_server:
                lab.server.suites = (CHACHA,)
                lab.restart()
                lab.clock.advance(30)  # till it has given up calling the client
            else:
                lab.client.suites = (CHACHA,)
            lab.client.start()
            lab.until_heard()
            lab.until_carrier("udp", 10.0)
            self.assertEqual(PLAIN, ciphers(lab))
            [talk] = lab.talk(130)
            self.assertEqual(0, talk.lost)
            self.assertEqual(PLAIN, ciphers(lab))
            refused = lab.server.counters.dropped, lab.client.counters.dropped
            self.assertEqual([0, 0], [each["bad-handshake"] for each in refused])

    def test_server_restarted(self) -> None:
        """A server that has forgotten calls back by WireGuard's own, and is renewed to AES."""
        lab = Lab()
        lab.meet()
        lab.restart()
        self.assertLess(lab.until_heard(0, 5.0), 5.0)
        lab.until_carrier("udp", 5.0)
        [talk] = lab.talk(130)
        self.assertEqual(0, talk.lost)
        self.assertEqual(AES, ciphers(lab))
        self.assertEqual([], lab.repeated())

    def test_server_that_lost_it(self) -> None:
        """A server that comes back as one without AES is heard at once, for it calls back."""
        lab = Lab()
        lab.meet()
        lab.server.suites = (CHACHA,)
        lab.restart()
        self.assertLess(lab.until_heard(0, 5.0), 5.0)
        lab.until_carrier("udp", 60.0)
        self.assertEqual(PLAIN, ciphers(lab))
        [talk] = lab.talk(300)
        self.assertEqual(0, talk.lost)
        self.assertEqual(PLAIN, ciphers(lab))

    def test_udp_alone(self) -> None:
        """A client that comes by UDP alone, and was told nothing yet, is let in all the same."""
        lab = Lab()
        lab.meet()
        lab.client.kill()
        lab.clock.advance(70)
        lab.both(no_tcp=True)
        lab.client.start()
        self.assertLess(lab.until_heard(0, 10.0), 10.0)
        self.assertEqual(PLAIN, ciphers(lab))
        lab.network.heal()
        [talk] = lab.talk(200)
        self.assertEqual(0, talk.lost)
        self.assertEqual(AES, ciphers(lab))
