"""Accelerations and jerks against the derivative of the acceleration, and some of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.physics.gravity import ExternalField, Gravity
from jaxstepper.physics.jerk import acceleration_and_jerk, pull_on

pulled = jax.jit(pull_on, static_argnums=0)
FIELD = ExternalField(lambda x, time: jnp.sin(time) * x**2, lambda x, time: jnp.zeros(len(x)))


def bodies(count):
    draw = np.random.default_rng(count)
    x, v = jnp.asarray(draw.normal(size=(2, count, 3)))
    return x, v, jnp.asarray(draw.uniform(size=count)).at[0].set(0)


# One body; pairs one by one; in blocks with some missing.
@pytest.mark.parametrize("count", [1, 4, 70])
@pytest.mark.parametrize("gravity", [Gravity(), Gravity(0.3, FIELD)], ids=["bare", "soft in field"])
def test_the_jerk_is_the_derivative_along_the_motion(count, gravity):
    x, v, mass = bodies(count)
    time = jnp.asarray(0.4)

    def acceleration(x, time):
        return gravity.acceleration(x, mass, time)

    @jax.jit
    def both(x, v):
        along = jax.jvp(acceleration, (x, time), (v, jnp.ones(())))
        return along, acceleration_and_jerk(gravity, x, v, mass, time)

    (a, j), mine = both(x, v)
    np.testing.assert_allclose(mine[0], a, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(mine[1], j, rtol=1e-11, atol=1e-12)


def test_the_pull_on_some_is_that_of_all():
    x, v, mass = bodies(70)
    sources, some = jnp.concatenate((x.T, v.T)), jnp.array([5, 69, 0])
    pull = pulled(Gravity(), sources[:, some], some, sources, mass, 0.0)
    a, j = jax.jit(acceleration_and_jerk, static_argnums=0)(Gravity(), x, v, mass, 0.0)
    np.testing.assert_allclose(pull.acceleration, a[some], rtol=1e-12)
    np.testing.assert_allclose(pull.jerk, j[some], rtol=1e-12)
    apart = np.linalg.norm(np.asarray(x)[None] - np.asarray(x)[some][:, None], axis=2)
    apart[apart == 0] = np.inf
    np.testing.assert_allclose(pull.strength, (np.asarray(mass) / apart**2).sum(1))


# XLA may round a body's position as a target otherwise than as a source.
@pytest.mark.parametrize("count", [4, 70])
def test_a_body_feels_nothing_of_itself_a_rounding_error_away(count):
    x, v, mass = bodies(count)
    sources, everyone = jnp.concatenate((x.T, v.T)), jnp.arange(count)
    pull, moved = (
        pulled(Gravity(), targets, everyone, sources, mass, 0.0)
        for targets in (sources, jnp.nextafter(sources, 9))
    )
    for mine, theirs in zip(moved, pull, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)
