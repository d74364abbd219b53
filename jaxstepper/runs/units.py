"""The units of a run, and the G that follows from them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxstepper.physics.tables import Table
from jaxstepper.physics.units import Units, read_units
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request


def with_G_of_units(request: Request) -> Request:
    """The request with the G of its units, if it names any.

    Raises:
        UserError: astropy is missing, they are not understood, or G is given beside them.
    """
    if request.config.units is None:
        return request
    if request.sets("G"):
        raise request.refusal("G", "and units both say what G is; give one of them")
    return request.replace(G=read_units(request.config.units, request.source("units")).G)


def units_of(config: Config) -> Units | None:
    """The units of a config, if it names any."""
    return None if config.units is None else read_units(config.units, "--units")


def units_in_words(config: Config) -> dict[str, Any]:
    """What JSON and files say of units: each by what it is of, and G; nothing where G = 1."""
    units = units_of(config)
    if units is not None:
        return {"units": units.names, "G": config.G}
    return {} if config.G == 1 else {"G": config.G}


def attracting(tables: Table, G: float) -> Table:
    """Tables `[..., N, 1 + 2 D]` with masses G m, which attract as theirs do, where G = 1."""
    if G == 1:
        return tables
    tables = np.array(tables)
    tables[..., 0] *= G
    return tables


def massive(tables: Table, G: float) -> Table:
    """The inverse of `attracting`."""
    if G == 1:
        return tables
    tables = np.array(tables)
    tables[..., 0] /= G
    return tables


def as_fast_as(G: float, tables: Table) -> Table:
    """Tables `[..., N, 1 + 2 D]` of orbits where G = 1, with their velocities where it is not."""
    if G == 1:
        return tables
    dim = (tables.shape[-1] - 1) // 2
    tables = tables.copy()
    tables[..., 1 + dim :] *= math.sqrt(G)
    return tables


def units_differ(config: Config, checkpoint: Mapping[str, Any]) -> bool:
    """Whether a network was trained in other units; G = 1 and no units are some, too."""
    theirs = checkpoint.get("units")
    mine = None if config.units is None else list(config.units)
    return mine != (None if theirs is None else list(theirs)) or (
        config.units is None and checkpoint.get("G", 1.0) != config.G
    )
