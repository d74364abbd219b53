"""A run, from its configuration to its folder.

Plans, bodies, checkpoints and their seals, models, resumption. The wings below do not see the
configuration; they take the few arguments that they need.
"""
