"""Simulates, with a constant or a learned time step; the same as `jaxstepper simulate`."""

from jaxstepper.cli import main

if __name__ == "__main__":
    main("simulate")
