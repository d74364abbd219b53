"""The force, network, inputs and optimiser of a configuration."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxstepper.errors import UserError
from jaxstepper.machine.memory import require_memory
from jaxstepper.network.features import FeatureSpec, Scales, automatic_scales
from jaxstepper.network.learned_criterion import Weights
from jaxstepper.network.polynomial import WEIGHTS, Polynomial
from jaxstepper.network.step_network import OUTPUTS, StepNetwork
from jaxstepper.physics.gravity import Gravity, tidal_field
from jaxstepper.physics.particles import from_table
from jaxstepper.settings.checks import check_together
from jaxstepper.settings.config import NATIVE_FEATURES, OF_WEIGHTS, SHARES, Config
from jaxstepper.settings.request import Request
from jaxstepper.settings.stored import from_dict

LEAST_BYTES = 4  # a number takes them in float32

# What a network was trained with, and a simulation must repeat.
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


def make_gravity(config: Config) -> Gravity:
    """The force that moves the bodies of a run."""
    if config.external_field_mass is None or config.external_field_position is None:
        return Gravity(config.softening, G=config.G)
    field = tidal_field(config.G * config.external_field_mass, config.external_field_position)
    return Gravity(config.softening, field, G=config.G)


def with_scales(config: Config, tables: np.ndarray) -> Config:
    """The config with the normalisation scales filled in."""
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
    """The inputs of the network; `with_scales` must have filled in the scales."""
    scales = Scales()
    if config.normalize_inputs:
        values = (config.norm_L0, config.norm_V0, config.norm_A0, config.norm_T0)
        assert None not in values
        scales = Scales(*values)  # type: ignore[arg-type]
    tolerances = (config.tolerance_min, config.tolerance_max)
    return FeatureSpec(
        config.feature_type,
        config.history_len,
        config.softening,
        scales,
        tolerances,
        config.fastest,
    )


def make_network(config: Config) -> StepNetwork | Weights | Polynomial:
    """The network that chooses steps."""
    if config.feature_type == SHARES:
        return Polynomial(jnp.dtype(config.dtype))
    if config.feature_type in OF_WEIGHTS:
        return Weights(jnp.dtype(config.dtype))
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
    """The optimiser, with torch's L2 penalty: weight_decay * w is added to the gradient.

    The decay of adamw bypasses the gradient. With `decay_steps` the learning rate falls to 0 in
    that many steps, along a cosine. Cached, so that equal plans are equal and compile once.
    """
    rate = optax.cosine_decay_schedule(lr, decay_steps) if decay_steps else lr
    if name == "adamw":
        return optax.adamw(rate, weight_decay=weight_decay)
    step = optax.sgd(rate, momentum=momentum) if name == "sgd" else _adam(rate)
    return optax.chain(optax.add_decayed_weights(weight_decay), step)


def _adam(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """`optax.adam` with one division a weight, not three; they are a sixth of an attempt's time.

    m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) = scale m / (sqrt(v) + eps c), with
    c = sqrt(1 - b2^t) and scale = c / (1 - b1^t) (Kingma and Ba 2015, end of section 2).
    """
    b1, b2, eps = 0.9, 0.999, 1e-8
    moments = optax.scale_by_adam(b1, b2, eps)

    def update(
        gradient: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        _, state = moments.update(gradient, state, params)

        def step(m: jax.Array, v: jax.Array) -> jax.Array:
            t = state.count.astype(m.dtype)
            c = jnp.sqrt(1 - b2**t)
            return c / (1 - b1**t) * (m / (jnp.sqrt(v) + eps * c))

        return jax.tree.map(step, state.mu, state.nu), state

    scale = optax.GradientTransformation(moments.init, update)
    return optax.chain(scale, optax.scale_by_learning_rate(rate))


def widths_of(config: Config) -> tuple[int, ...]:
    """The widths of the layers of a `StepNetwork`, from its inputs to its outputs."""
    inputs = FeatureSpec(config.feature_type, config.history_len).size
    first = config.fourier_dim if config.fourier_scale > 0 else inputs
    return (first, *config.hidden_dims, OUTPUTS)


def weights_of(config: Config) -> int:
    """The number of weights in a network, which is that of multiplications in a pass; no biases."""
    inputs = FeatureSpec(config.feature_type, config.history_len).size
    if config.feature_type in OF_WEIGHTS:
        return WEIGHTS if config.feature_type == SHARES else inputs
    frequencies = inputs * config.fourier_dim // 2 if config.fourier_scale > 0 else 0
    return frequencies + sum(a * b for a, b in pairwise(widths_of(config)))


def require_room(config: Config) -> None:
    """Raises a UserError if memory cannot hold the network or an epoch of samples."""
    size = " ".join(map(str, widths_of(config)))
    require_memory(LEAST_BYTES * weights_of(config), f"a network of layers of {size}")
    systems = config.num_orbits if config.multi_orbit and config.ic_path is None else 1
    state = 3 * config.num_particles * config.dim
    samples = config.steps_per_epoch * systems
    require_memory(
        LEAST_BYTES * samples * state * (1 + config.history_len),
        f"an epoch of {samples} samples with {config.history_len} past states each",
    )


def adopt(request: Request, checkpoint: Mapping[str, Any], name: str) -> Request:
    """The request with the network, inputs, scheme and dtype of a checkpoint, by its flat config.

    A dtype, scheme or fastest that was set explicitly wins over the checkpoint's.

    Raises:
        UserError: a network or input that was set explicitly is not the checkpoint's.
    """
    trained, _ = from_dict(checkpoint)
    for field in (*NETWORK_FIELDS, *INPUT_FIELDS):
        if field == "softening" and trained.feature_type in NATIVE_FEATURES:
            continue  # such inputs see it only through the distances it softens
        mine, theirs = getattr(request.config, field), getattr(trained, field)
        if request.sets(field) and mine != theirs:
            raise UserError(
                f"{request.source(field)} {_words(mine)}: {name} was trained with {_words(theirs)}"
            )
        request = request.replace(**{field: theirs})
    for field in ("dtype", "scheme", "fastest"):
        if not request.sets(field):
            request = request.replace(**{field: getattr(trained, field)})
    return check_together(request)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
