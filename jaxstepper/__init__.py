"""Learned time steps for gravitational N-body simulation, in JAX. Units: G = 1.

A table of bodies becomes `Particles`; a `Controller` says how long each step is; a rollout takes
the steps under a `Gravity`. All of it is pure functions and pytrees, for `jit`, `vmap` and `grad`.
The names below are what most programs need; the modules of the package hold the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxstepper.physics.diagnostics import total_energy
    from jaxstepper.physics.gravity import ExternalField, Gravity
    from jaxstepper.physics.initial_conditions import kepler_pair, plummer
    from jaxstepper.physics.particles import Particles, from_table
    from jaxstepper.runs.models import load_controller
    from jaxstepper.stepping.controller import Controller, fixed, memoryless, scaled, symmetrized
    from jaxstepper.stepping.literature import free_fall
    from jaxstepper.stepping.rollout import Limits, record, run_steps, run_until

__version__ = "0.1.0"

__all__ = [
    "Controller",
    "ExternalField",
    "Gravity",
    "Limits",
    "Particles",
    "fixed",
    "free_fall",
    "from_table",
    "kepler_pair",
    "load_controller",
    "memoryless",
    "plummer",
    "record",
    "run_steps",
    "run_until",
    "scaled",
    "symmetrized",
    "total_energy",
]

_HOMES = {
    "physics.diagnostics": ("total_energy",),
    "physics.gravity": ("ExternalField", "Gravity"),
    "physics.initial_conditions": ("kepler_pair", "plummer"),
    "physics.particles": ("Particles", "from_table"),
    "runs.models": ("load_controller",),
    "stepping.controller": ("Controller", "fixed", "memoryless", "scaled", "symmetrized"),
    "stepping.literature": ("free_fall",),
    "stepping.rollout": ("Limits", "record", "run_steps", "run_until"),
}


def __getattr__(name: str) -> Any:
    # On first use: the command line reads its arguments before JAX is imported.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"jaxstepper.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "__doc__"])
