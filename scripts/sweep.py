"""Trains with choices of a TOML file and keeps the best; the same as `jaxstepper sweep`."""

from jaxstepper.cli import main

if __name__ == "__main__":
    main("sweep")
