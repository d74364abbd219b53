"""A run, from its configuration to its folder.

Plans, checkpoints and their seals, models, resumption. The configuration ends here: everything
below takes the few arguments that it needs.
"""
