"""Draws the training of a run, or a recorded rollout; the same as `jaxstepper plot`."""

from jaxstepper.cli import main

if __name__ == "__main__":
    main("plot")
