"""Tells users what is going on: notes, bars, lines and W&B.

Reporting watches training and never changes it.
"""
