"""From a `Config` to what training and simulation take: device, tables, network, `Plan`."""

import os
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxstepper.errors import UserError
from jaxstepper.machine import processes
from jaxstepper.machine.memory import require_memory
from jaxstepper.network.features import FeatureSpec, Scales, automatic_scales
from jaxstepper.network.step_network import OUTPUTS, StepNetwork
from jaxstepper.physics import initial_conditions as ics
from jaxstepper.physics.gravity import Gravity, tidal_field
from jaxstepper.physics.particles import from_table
from jaxstepper.physics.precision import check_precision
from jaxstepper.physics.tables import load_table, validate_table
from jaxstepper.settings.config import (
    NATIVE_FEATURES,
    Config,
    check_together,
    from_dict,
    ineffective,
)
from jaxstepper.settings.values import refusal

Given = Mapping[str, str]
"""Names that were given explicitly, with where: {"lr": "--lr"}."""

LEAST_BYTES = 4  # of a number, in float32

# What a network was trained with, and simulation must repeat.
NETWORK_FIELDS = ("hidden_dims", "activation", "dropout", "fourier_scale", "fourier_dim")
INPUT_FIELDS = (
    "feature_type",
    "history_len",
    "softening",
    "normalize_inputs",
    "norm_mode",
    "norm_L0",
    "norm_V0",
    "norm_A0",
    "norm_T0",
    "tolerance_min",
    "tolerance_max",
)


def join(config: Config) -> None:
    """Joins the processes of the run, if it has several; must come before anything else of JAX.

    Raises:
        UserError: they are not reached.
    """
    if config.distributed or config.coordinator is not None:
        processes.join(config.coordinator, config.num_processes, config.process_id)


def configure_jax(config: Config) -> Config:
    """Chooses device and precision for this process; must run before the first array.

    Returns:
        The config with the dtype in use: a TPU has no float64.

    Raises:
        UserError: there is no such device.
    """
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    jax.config.update("jax_debug_nans", config.detect_anomaly)
    precision = "tensorfloat32" if config.tf32 else "highest"
    jax.config.update("jax_default_matmul_precision", precision)
    if config.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir()))
        # Small programs too: a run has dozens, and compiling them is most of its start.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    kind = {"cuda": "gpu"}.get(config.device, config.device)
    if kind == "cpu":
        # Other devices are not even initialised then.
        jax.config.update("jax_platforms", "cpu")
    try:
        device = jax.local_devices(backend=None if kind == "auto" else kind)[0]
    except RuntimeError as error:
        present = ", ".join(sorted({each.platform for each in jax.devices()}))
        raise UserError(
            f"--device {config.device}: JAX sees no such device here, only {present}; install "
            "JAX for it (for NVIDIA: pip install 'jax[cuda13]') or use --device auto"
        ) from error
    jax.config.update("jax_default_device", device)
    if device.platform == "tpu" and config.dtype == "float64":
        warnings.warn("a TPU has no float64; this run uses float32", stacklevel=2)
        jax.config.update("jax_enable_x64", False)
        return replace(config, dtype="float32")
    return config


def cache_dir() -> Path:
    """Where this user's compiled programs are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jaxstepper" / "compiled"


def choose_seed(config: Config) -> Config:
    """The config with a seed: a run without one draws it, and keeps it."""
    if config.seed is not None:
        return config
    return replace(config, seed=processes.from_main(secrets.randbits(32)))


def initial_tables(config: Config, given: Given, many: bool, seed: ics.Seed = None) -> np.ndarray:
    """Initial conditions `[B, N, 1 + 2 D]` that can be simulated in the run's dtype.

    Args:
        config: of the run.
        given: what was given explicitly.
        many: whether the run takes many systems: those of a file, or else `num_orbits` draws of
            Kepler pairs, random bodies or Plummer spheres. If not, one: a file's, a Kepler pair if
            -e or -a was given with two particles, or random bodies.
        seed: of the draws; the config's otherwise.

    Raises:
        UserError: the file cannot be used, or the draws cannot be made.
    """
    if config.ic_path is not None:
        tables, where = _tables_from_file(config, given, many), config.ic_path
    else:
        tables, where = _drawn_tables(config, given, many, seed), "the drawn bodies"
    check_precision(tables, where, config.dtype, config.softening)
    return tables


def _drawn_tables(config: Config, given: Given, many: bool, seed: ics.Seed) -> np.ndarray:
    seed = config.seed if seed is None else seed
    spheres = many and config.draw == "plummer"
    dim = 3 if spheres else config.dim
    size = f"{config.num_particles} particles in {dim}D"
    size = f"{config.num_orbits} systems of {size}" if many else size
    systems = config.num_orbits if many else 1
    require_memory(8 * systems * config.num_particles * (1 + 2 * dim), size)
    if spheres:
        if "dim" in given and config.dim != 3:
            rule = "Plummer spheres have 3 dimensions; leave it out, or use --draw random"
            raise refusal("dim", given["dim"], config.dim, rule)
        return ics.plummer_batch(seed, systems, config.num_particles)
    if many and config.draw != "random":
        return _drawn_pairs(config, given, seed)
    if not many and _is_kepler_pair(config, given):
        masses = (config.mass, config.mass)
        return ics.kepler_table(config.eccentricity, config.semi_major, masses, config.dim)[None]
    return ics.random_batch(
        seed,
        systems,
        config.num_particles,
        config.dim,
        config.mass,
        config.pos_scale,
        config.vel_scale,
    )


def _drawn_pairs(config: Config, given: Given, seed: ics.Seed) -> np.ndarray:
    if config.dim < 2:
        raise UserError("--dim 1: Kepler pairs need 2 dimensions or more; or use --draw random")
    if "num_particles" in given and config.num_particles != 2:
        raise refusal(
            "num_particles",
            given["num_particles"],
            config.num_particles,
            "Kepler pairs have 2 bodies; leave it out, or use --draw random",
        )
    return ics.kepler_batch(
        seed,
        config.num_orbits,
        config.e_min,
        config.e_max,
        config.a_min,
        config.a_max,
        config.mass,
        config.dim,
        config.draw == "apocentre",
    )


def _is_kepler_pair(config: Config, given: Given) -> bool:
    asked = {"eccentricity", "semi_major"} & given.keys()
    return bool(asked) and config.num_particles == 2 and config.dim >= 2


def _tables_from_file(config: Config, given: Given, many: bool) -> np.ndarray:
    assert config.ic_path is not None
    tables = load_table(config.ic_path)
    validate_table(
        tables,
        config.ic_path,
        softening=config.softening,
        dim=config.dim if "dim" in given else None,
        num_particles=config.num_particles if "num_particles" in given else None,
    )
    tables = tables if tables.ndim == 3 else tables[None]
    if len(tables) > 1 and not many:
        raise UserError(
            f"{config.ic_path}: holds {len(tables)} systems; use --multi-orbit (train) or "
            "--multi-orbit-sim (simulate), or a file of one table"
        )
    return tables


def end_times(config: Config, tables: np.ndarray) -> np.ndarray:
    """When each system retires, `[B]`: bound pairs after a period if asked for, others never."""
    periods = [ics.orbital_period(table) if config.stop_at_period else None for table in tables]
    return np.array([np.inf if period is None else period for period in periods])


def with_shape_of(config: Config, tables: np.ndarray) -> Config:
    """The config with the number of particles and dimensions of the tables in use.

    Raises:
        UserError: the external field has another number of dimensions.
    """
    _, num_particles, columns = tables.shape
    config = replace(config, num_particles=num_particles, dim=(columns - 1) // 2)
    return check_together(config, {})


def make_gravity(config: Config) -> Gravity:
    """The force of a run."""
    if config.external_field_mass is None or config.external_field_position is None:
        return Gravity(config.softening)
    field = tidal_field(config.external_field_mass, config.external_field_position)
    return Gravity(config.softening, field)


def with_scales(config: Config, tables: np.ndarray) -> Config:
    """The config with the normalisation scales that are used, so that they travel with it."""
    if not config.normalize_inputs:
        return config
    if config.norm_mode == "manual":
        assert config.norm_L0 is not None and config.norm_V0 is not None
        acceleration = config.norm_A0 or config.norm_V0**2 / config.norm_L0
        time = config.norm_T0 or config.norm_L0 / config.norm_V0
        return replace(config, norm_A0=acceleration, norm_T0=time)
    if None not in (config.norm_L0, config.norm_V0, config.norm_A0, config.norm_T0):
        return config
    dtype = jnp.dtype(config.dtype)
    gravity = Gravity(config.softening)
    particles = jax.vmap(lambda table: from_table(table, gravity.acceleration, dtype))(
        jnp.asarray(tables, dtype)
    )
    scales = automatic_scales(particles, config.softening)
    return replace(
        config,
        norm_L0=float(scales.length),
        norm_V0=float(scales.speed),
        norm_A0=float(scales.acceleration),
        norm_T0=float(scales.time),
    )


def make_features(config: Config) -> FeatureSpec:
    """The network's inputs; `with_scales` must have filled in the scales."""
    scales = Scales()
    if config.normalize_inputs:
        values = (config.norm_L0, config.norm_V0, config.norm_A0, config.norm_T0)
        assert None not in values
        scales = Scales(*values)  # type: ignore[arg-type]
    tolerances = (config.tolerance_min, config.tolerance_max)
    return FeatureSpec(
        config.feature_type, config.history_len, config.softening, scales, tolerances
    )


def make_network(config: Config) -> StepNetwork:
    """The network."""
    return StepNetwork(
        hidden_dims=config.hidden_dims,
        activation=config.activation,
        dropout=config.dropout,
        fourier_scale=config.fourier_scale,
        fourier_dim=config.fourier_dim,
        dtype=jnp.dtype(config.dtype),
        positive=config.feature_type not in NATIVE_FEATURES,
    )


@lru_cache
def make_optimizer(
    name: str, lr: float, weight_decay: float, momentum: float, decay_steps: int = 0
) -> optax.GradientTransformation:
    """The optimiser, with torch's L2 penalty: weight_decay * w joins the gradient.

    adamw is the one whose decay does not go through the gradient. With `decay_steps` the learning
    rate falls to 0 in so many steps, along a cosine. Cached, so that equal plans are equal and
    compile once.
    """
    rate = optax.cosine_decay_schedule(lr, decay_steps) if decay_steps else lr
    if name == "adamw":
        return optax.adamw(rate, weight_decay=weight_decay)
    step = optax.sgd(rate, momentum=momentum) if name == "sgd" else optax.adam(rate)
    return optax.chain(optax.add_decayed_weights(weight_decay), step)


def require_room(config: Config) -> None:
    """Refuses a network, or samples of an epoch, that this machine's memory cannot hold.

    Raises:
        UserError: it cannot.
    """
    inputs = FeatureSpec(config.feature_type, config.history_len).size
    has_fourier = config.fourier_scale > 0
    frequencies = inputs * config.fourier_dim // 2 if has_fourier else 0
    widths = (config.fourier_dim if has_fourier else inputs, *config.hidden_dims, OUTPUTS)
    weights = frequencies + sum(a * b for a, b in pairwise(widths))
    size = " ".join(map(str, widths))
    require_memory(LEAST_BYTES * weights, f"a network of layers of {size}")
    systems = config.num_orbits if config.multi_orbit and config.ic_path is None else 1
    state = 3 * config.num_particles * config.dim
    samples = config.steps_per_epoch * systems
    require_memory(
        LEAST_BYTES * samples * state * (1 + config.history_len),
        f"an epoch of {samples} samples with {config.history_len} past states each",
    )


def adopt(config: Config, given: Given, checkpoint: Mapping[str, Any], name: str) -> Config:
    """The config with what the network of a checkpoint was trained with.

    The checkpoint decides on network, inputs and dtype. What was given explicitly wins for the
    dtype; a network or input that was given explicitly must be the checkpoint's.

    Raises:
        UserError: it is not.
    """
    trained, _ = from_dict(checkpoint)
    for field in (*NETWORK_FIELDS, *INPUT_FIELDS):
        if field == "softening" and trained.feature_type in NATIVE_FEATURES:
            continue  # such inputs see it beside the distances that it softens, if at all
        mine, theirs = getattr(config, field), getattr(trained, field)
        if field in given and mine != theirs:
            raise UserError(
                f"{given[field]} {_words(mine)}: {name} was trained with {_words(theirs)}"
            )
        config = replace(config, **{field: theirs})
    if "dtype" not in given:
        config = replace(config, dtype=trained.dtype)
    return check_together(config, given)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def warn_of_unused_orbit(config: Config, given: Given, many: bool) -> None:
    """Warns of an eccentricity or semi-major axis that was given and makes no Kepler pair."""
    if config.ic_path is not None:
        why = f"the bodies are those of {config.ic_path}"
    elif many:
        why = f"many systems are drawn (--draw {config.draw})"
    elif not _is_kepler_pair(config, given):
        why = f"a Kepler pair has 2 particles in 2D or more, not {config.num_particles} in "
        why += f"{config.dim}D"
    else:
        return
    for name in [each for each in ("eccentricity", "semi_major") if each in given]:
        warnings.warn(f"{given[name]} is not used: {why}", stacklevel=3)


def warn_of_ineffective(config: Config, given: Given) -> None:
    """Warns of what is accepted for the torch system's sake and has no effect."""
    for name in ineffective(given):
        warnings.warn(f"{given[name]} is accepted and changes nothing", stacklevel=3)
