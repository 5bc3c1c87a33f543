"""Adapters between the deaf rooms and the kernel or the reactor; they hold no opinions."""
