"""The tests; each runs under pytest and under trial.

Two cores that do much else make time limits per example fail for no fault of the code.
"""

from hypothesis import settings

settings.register_profile("pyvpn", deadline=None)
settings.load_profile("pyvpn")
