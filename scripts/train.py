"""Trains a network to choose time steps; the same as `jaxstepper train`."""

from jaxstepper.cli import main

if __name__ == "__main__":
    main("train")
