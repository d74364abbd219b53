"""What files and JSON say of how a rollout was made."""

from typing import Any

from jaxstepper import __version__
from jaxstepper.commands.restart import given_options
from jaxstepper.commands.rollout_words import rule_name
from jaxstepper.runs.units import units_in_words
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request


def said_of(config: Config) -> dict[str, Any]:
    """The rule, the scheme, and the units, unless G = 1."""
    return {"rule": rule_name(config), "scheme": config.scheme} | units_in_words(config)


def about(request: Request) -> dict[str, Any]:
    """What a file of --output says of itself."""
    config = request.config
    made = {
        "version": __version__,
        "seed": config.seed,
        "softening": config.softening,
        "symmetrized": config.symmetrize,
        "distilled": config.distill,
        "model": config.model_path,
    }
    return said_of(config) | made | {"given": given_options(request)}
