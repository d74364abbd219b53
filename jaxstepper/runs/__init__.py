"""A run, from its configuration to its folder.

Bodies, objectives, checkpoints and their seals, models, resumption. The wings below never see a
configuration; they take the few arguments that they need.
"""
