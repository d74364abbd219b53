"""The table of options, with its checks, its flags and its TOML files.

Standard library only, so that `--help` answers at once. Nothing here acts on an option.
"""
