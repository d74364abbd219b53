"""From a state and its history to a network's input, and from its output to a learned rule.

Nothing here knows how a network is trained.
"""
