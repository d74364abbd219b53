"""The initial conditions of a run: drawn, or read from a file."""

import warnings
from dataclasses import replace

import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.machine.memory import require_memory
from jaxstepper.physics import initial_conditions as ics
from jaxstepper.physics.precision import check_precision
from jaxstepper.physics.tables import Bodies, load_bodies, validate_table
from jaxstepper.physics.units import Units
from jaxstepper.runs.recordings import end_of_recording
from jaxstepper.runs.units import as_fast_as, attracting, units_of
from jaxstepper.settings.checks import check_together
from jaxstepper.settings.config import Config
from jaxstepper.settings.request import Request


def initial_tables(request: Request, many: bool, seed: ics.Seed = None) -> np.ndarray:
    """The tables `[B, N, 1 + 2 D]` of `initial_bodies`, with its arguments and errors."""
    return initial_bodies(request, many, seed).table


def initial_bodies(request: Request, many: bool, seed: ics.Seed = None) -> Bodies:
    """Initial conditions `[B, N, 1 + 2 D]` that can be simulated in the run's dtype.

    They are in the units of the run.

    Args:
        request: the options of the run.
        many: whether the run takes many systems: those of a file, or `num_orbits` draws of Kepler
            pairs, random bodies or Plummer spheres. Otherwise it takes one: the file's, a Kepler
            pair if -e or -a was set and there are two particles, or random bodies.
        seed: of the draws; by default the config's.

    Raises:
        UserError: the file cannot be used, or the draws cannot be made.
    """
    config = request.config
    if config.ic_path is not None:
        bodies, where = _bodies_from_file(request, many), config.ic_path
    else:
        bodies, where = Bodies(_drawn_tables(request, many, seed)), "the drawn bodies"
    check_precision(attracting(bodies.table, config.G), where, config.dtype, config.softening)
    return bodies


def _drawn_tables(request: Request, many: bool, seed: ics.Seed) -> np.ndarray:
    config = request.config
    seed = config.seed if seed is None else seed
    drawn_in_3d = many and config.draw in ("virial", "plummer")
    dim = 3 if drawn_in_3d else config.dim
    size = f"{config.num_particles} particles in {dim}D"
    size = f"{config.num_orbits} systems of {size}" if many else size
    systems = config.num_orbits if many else 1
    require_memory(8 * systems * config.num_particles * (1 + 2 * dim), size)
    if drawn_in_3d:
        if request.sets("dim") and config.dim != 3:
            rule = f"--draw {config.draw} is in 3 dimensions; leave it out, or use --draw random"
            raise request.refusal("dim", rule)
        if config.draw == "virial":
            drawn = ics.virial_batch(seed, systems, config.num_particles, config.mass_range)
        else:
            ranges = (config.a_min, config.a_max), (config.e_min, config.e_max)
            sizes = (systems, config.num_particles, config.binaries)
            drawn = ics.plummer_batch(seed, *sizes, *ranges)
        return as_fast_as(config.G, drawn)
    if many and config.draw != "random":
        return as_fast_as(config.G, _drawn_pairs(request, seed))
    if not many and _is_kepler_pair(request):
        masses = (config.mass, config.mass)
        pair = ics.kepler_table(config.eccentricity, config.semi_major, masses, config.dim)
        return as_fast_as(config.G, pair[None])
    scales = (config.mass, config.pos_scale, config.vel_scale)
    return ics.random_batch(seed, systems, config.num_particles, config.dim, *scales)


def _drawn_pairs(request: Request, seed: ics.Seed) -> np.ndarray:
    config = request.config
    if config.dim < 2:
        raise UserError("--dim 1: Kepler pairs need 2 dimensions or more; or use --draw random")
    if request.sets("num_particles") and config.num_particles != 2:
        rule = "Kepler pairs have 2 bodies; leave it out, or use --draw random"
        raise request.refusal("num_particles", rule)
    ranges = (config.e_min, config.e_max, config.a_min, config.a_max)
    at_apocentre = config.draw == "apocentre"
    return ics.kepler_batch(seed, config.num_orbits, *ranges, config.mass, config.dim, at_apocentre)


def _is_kepler_pair(request: Request) -> bool:
    asked = request.sets("eccentricity") or request.sets("semi_major")
    return asked and request.config.num_particles == 2 and request.config.dim >= 2


def _bodies_from_file(request: Request, many: bool) -> Bodies:
    config = request.config
    assert config.ic_path is not None
    dim = config.dim if request.sets("dim") else None
    in_field = config.external_field_mass is not None
    tables, names = read_bodies(config.ic_path, dim, in_field, units_of(config), config.G)
    check_tables(request, tables, config.ic_path)
    tables = tables if tables.ndim == 3 else tables[None]
    if len(tables) > 1 and not many:
        raise UserError(
            f"{config.ic_path}: holds {len(tables)} systems; use --multi-orbit (train) or "
            "--multi-orbit-sim (simulate), or a file of one table"
        )
    return Bodies(tables, names)


def read_bodies(
    path: str,
    dim: int | None = None,
    in_field: bool = False,
    units: Units | None = None,
    G: float = 1.0,
) -> Bodies:
    """The bodies of a table or batch, or the last states of a recording (.npz or .h5).

    The arguments are those of `load_bodies` and `end_of_recording`, and so are the errors.
    """
    if path.endswith((".npz", ".h5")):
        return Bodies(*end_of_recording(path, units, G))
    return load_bodies(path, dim, in_field, units)


def check_tables(request: Request, tables: np.ndarray, source: str) -> None:
    """Raises a UserError if tables `[..., N, 1 + 2 D]` are invalid, or not of the shape asked."""
    config = request.config
    validate_table(
        tables,
        source,
        softening=config.softening,
        dim=config.dim if request.sets("dim") else None,
        num_particles=config.num_particles if request.sets("num_particles") else None,
        in_field=config.external_field_mass is not None,
    )


def with_shape_of(config: Config, tables: np.ndarray) -> Config:
    """The config with the number of particles and dimensions of the tables.

    Raises:
        UserError: the external field has another number of dimensions.
    """
    _, num_particles, columns = tables.shape
    config = replace(config, num_particles=num_particles, dim=(columns - 1) // 2)
    return check_together(Request(config)).config


def warn_of_unused_orbit(request: Request, many: bool) -> None:
    """Warns of an eccentricity or semi-major axis that was set without making a Kepler pair."""
    config = request.config
    if config.ic_path is not None:
        why = f"the bodies are those of {config.ic_path}"
    elif many:
        why = f"many systems are drawn (--draw {config.draw})"
    elif not _is_kepler_pair(request):
        why = f"a Kepler pair has 2 particles in 2D or more, not {config.num_particles} in "
        why += f"{config.dim}D"
    else:
        return
    for name in filter(request.sets, ("eccentricity", "semi_major")):
        warnings.warn(f"{request.source(name)} is not used: {why}", stacklevel=3)
