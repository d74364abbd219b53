"""One trainer, `run`, and the objectives it can train, each in a folder of its own.

Pure functions on the device, and one host loop. Nothing here prints, or reads a configuration.
"""
