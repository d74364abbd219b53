"""`python -m jaxstepper`: the command line."""

from jaxstepper.cli import console

if __name__ == "__main__":
    console()
