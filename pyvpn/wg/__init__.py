"""A WireGuard device of its own: what ``pyvpn wg IFNAME`` is, configured by ``wg``."""
