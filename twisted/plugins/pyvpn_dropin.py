"""Makes ``twistd vpnserver`` and ``twistd vpnclient`` known; imports nothing of ours."""

from twisted.application.service import ServiceMaker

vpnserver = ServiceMaker(
    "pyvpn server", "pyvpn.server_tap", "Lets people reach the LAN behind this host.", "vpnserver"
)
vpnclient = ServiceMaker(
    "pyvpn client", "pyvpn.client_tap", "Reaches the LAN behind a pyvpn server.", "vpnclient"
)
