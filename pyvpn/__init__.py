"""A VPN server and client on Twisted: reach the office or home LAN from anywhere."""

__version__ = "0.1.0.dev0"
