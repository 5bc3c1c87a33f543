"""The pyvpn command."""
