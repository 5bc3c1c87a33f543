"""The domain: sessions, leases, routes, and the router where both directions meet."""
