"""Side by side with other VPNs, on this machine, in one run: ``make bench``.

How to read what comes of it is in ``bench/README.rst``.
"""
