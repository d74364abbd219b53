"""Compares step-size rules; the same as `jaxstepper evaluate`."""

from jaxstepper.cli import main

if __name__ == "__main__":
    main("evaluate")
