"""Makes a run of a torch checkpoint file; the same as `jaxstepper import`."""

from jaxstepper.cli import main

if __name__ == "__main__":
    main("import")
