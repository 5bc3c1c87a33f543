"""What is remembered on disk: users, devices, leases."""
