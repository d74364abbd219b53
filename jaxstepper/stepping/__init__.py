"""Rules that choose the length of a step, and rollouts that take it.

Classical rules live here; learned ones are in `network`, which builds on this wing.
"""
