"""Learned time steps for gravitational N-body simulation, in JAX."""

__version__ = "0.1.0"
