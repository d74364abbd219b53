"""From a state and its history to a network's input, and from its output to a learned rule.

How a network is trained is not known here.
"""
