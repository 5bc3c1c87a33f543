"""Bytes to values and back: control frames, their JSON messages, IP headers."""
