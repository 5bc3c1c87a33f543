"""Keys and certificates, as pure functions."""
