"""Penstock: a user-space virtual switch whose data plane is Python compiled by Numba."""

__version__ = "0.1.0"
