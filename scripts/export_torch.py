"""Writes checkpoints as files that the torch simulator loads; the same as `jaxstepper export`."""

from jaxstepper.cli import main

if __name__ == "__main__":
    main("export")
