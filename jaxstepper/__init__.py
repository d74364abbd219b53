"""Learned time steps for gravitational N-body simulation, in JAX. Units: G = 1.

A table of bodies becomes `Particles`; a `Rule` says how long each step is; a rollout takes
the steps under a `Gravity`. All of it is pure functions and pytrees, for `jit`, `vmap` and `grad`.
The names below are what most programs need; the modules of the package hold the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxstepper.library import Trained, train
    from jaxstepper.machine.devices import everywhere, sharded
    from jaxstepper.network.distilled import distilled
    from jaxstepper.network.learned import LearnedRule, OrbitalRule
    from jaxstepper.physics.diagnostics import total_energy
    from jaxstepper.physics.elements import Elements, from_elements, to_elements
    from jaxstepper.physics.gravity import ExternalField, Gravity
    from jaxstepper.physics.initial_conditions import kepler_pair, plummer
    from jaxstepper.physics.particles import Particles, from_table
    from jaxstepper.physics.quantities import (
        from_amuse,
        from_quantities,
        to_amuse,
        to_quantities,
    )
    from jaxstepper.physics.rebound_systems import from_rebound, to_rebound
    from jaxstepper.physics.systems import System
    from jaxstepper.physics.units import Units, read_units
    from jaxstepper.runs.keeping import go_on, go_on_individual, record_individual, record_to
    from jaxstepper.runs.models import load_controller, load_criterion, load_rule
    from jaxstepper.runs.recordings import Recording, read_recording
    from jaxstepper.stepping.criteria import Aarseth, Criterion
    from jaxstepper.stepping.individual import run_individual
    from jaxstepper.stepping.individual_state import at_common_time, evaluations
    from jaxstepper.stepping.literature import (
        Acceleration,
        DistanceOverAcceleration,
        FreeFall,
        HairerSoderlind,
        Huayno,
        LogarithmicHamiltonian,
        PowerLaw,
        free_fall,
    )
    from jaxstepper.stepping.rollout import Limits, run_steps, run_until
    from jaxstepper.stepping.rule import (
        Controller,
        Fixed,
        Memoryless,
        Rule,
        Scaled,
        Symmetrized,
        fixed,
        memoryless,
        scaled,
        symmetrized,
    )
    from jaxstepper.stepping.scheme import BlanesMoan, Chin, Hermite, Leapfrog, Scheme
    from jaxstepper.trajectory import Trajectory, record

__version__ = "0.1.0"

import_module("jaxstepper.machine.cpu_flags").set_flags()

__all__ = [
    "Aarseth",
    "Acceleration",
    "BlanesMoan",
    "Chin",
    "Controller",
    "Criterion",
    "DistanceOverAcceleration",
    "Elements",
    "ExternalField",
    "Fixed",
    "FreeFall",
    "Gravity",
    "HairerSoderlind",
    "Hermite",
    "Huayno",
    "Leapfrog",
    "LearnedRule",
    "Limits",
    "LogarithmicHamiltonian",
    "Memoryless",
    "OrbitalRule",
    "Particles",
    "PowerLaw",
    "Recording",
    "Rule",
    "Scaled",
    "Scheme",
    "Symmetrized",
    "System",
    "Trained",
    "Trajectory",
    "Units",
    "at_common_time",
    "distilled",
    "evaluations",
    "everywhere",
    "fixed",
    "free_fall",
    "from_amuse",
    "from_elements",
    "from_quantities",
    "from_rebound",
    "from_table",
    "go_on",
    "go_on_individual",
    "kepler_pair",
    "load_controller",
    "load_criterion",
    "load_rule",
    "memoryless",
    "plummer",
    "read_recording",
    "read_units",
    "record",
    "record_individual",
    "record_to",
    "run_individual",
    "run_steps",
    "run_until",
    "scaled",
    "sharded",
    "symmetrized",
    "to_amuse",
    "to_elements",
    "to_quantities",
    "to_rebound",
    "total_energy",
    "train",
]

_HOMES = {
    "library": ("Trained", "train"),
    "machine.devices": ("everywhere", "sharded"),
    "network.learned": ("LearnedRule", "OrbitalRule"),
    "network.distilled": ("distilled",),
    "physics.diagnostics": ("total_energy",),
    "physics.elements": ("Elements", "from_elements", "to_elements"),
    "physics.gravity": ("ExternalField", "Gravity"),
    "physics.initial_conditions": ("kepler_pair", "plummer"),
    "physics.particles": ("Particles", "from_table"),
    "physics.quantities": ("from_amuse", "from_quantities", "to_amuse", "to_quantities"),
    "physics.rebound_systems": ("from_rebound", "to_rebound"),
    "physics.systems": ("System",),
    "physics.units": ("Units", "read_units"),
    "runs.keeping": ("go_on", "go_on_individual", "record_individual", "record_to"),
    "runs.models": ("load_controller", "load_criterion", "load_rule"),
    "runs.recordings": ("Recording", "read_recording"),
    "stepping.criteria": ("Aarseth", "Criterion"),
    "stepping.individual": ("run_individual",),
    "stepping.individual_state": ("at_common_time", "evaluations"),
    "stepping.literature": (
        "Acceleration",
        "DistanceOverAcceleration",
        "FreeFall",
        "HairerSoderlind",
        "Huayno",
        "LogarithmicHamiltonian",
        "PowerLaw",
        "free_fall",
    ),
    "stepping.rollout": ("Limits", "run_steps", "run_until"),
    "stepping.rule": (
        "Controller",
        "Fixed",
        "Memoryless",
        "Rule",
        "Scaled",
        "Symmetrized",
        "fixed",
        "memoryless",
        "scaled",
        "symmetrized",
    ),
    "stepping.scheme": ("BlanesMoan", "Chin", "Hermite", "Leapfrog", "Scheme"),
    "trajectory": ("Trajectory", "record"),
}


def __getattr__(name: str) -> Any:
    # On first use: the command line reads its arguments before JAX is imported.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"jaxstepper.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "__doc__"])
