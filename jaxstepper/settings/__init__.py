"""The table of options, with its checks, its flags and its TOML files.

It imports only the standard library, so that `--help` answers at once. Nothing here acts on an
option.
"""
