"""Training by an evolution strategy on whole rollouts: for what has no useful gradient.

Individual steps are powers of two, and bodies take them in an order that depends on them.
"""
