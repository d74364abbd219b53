"""One file per command: what it does once its arguments are known to be good.

Nothing but the command line imports this wing.
"""
