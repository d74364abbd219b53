"""Writes initial conditions; the same as `jaxstepper make-ics`."""

from jaxstepper.cli import main

if __name__ == "__main__":
    main("make-ics")
