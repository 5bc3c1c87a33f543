"""Errors, typed by who is to blame, because that decides what happens next."""

from __future__ import annotations


class PyvpnError(Exception):
    """Anything this program raises on purpose; the text is written for people."""


class ConfigError(PyvpnError):
    """The operator wrote something that cannot be: stop, and say where and what instead."""


class PeerError(PyvpnError):
    """The other side sent something that cannot be: drop it, count it, carry on."""


class HostError(PyvpnError):
    """The kernel or our rights stand in the way: stop, and name the cure."""


class Misuse(PyvpnError):
    """We called ourselves wrongly: a bug, worth a traceback."""
