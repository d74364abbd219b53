"""Sums over pairs on a CPU: their roots, their forms at every size, and their derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.physics.fast_roots import inverse_cube, inverse_root
from jaxstepper.physics.gravity import (
    BLOCK,
    BLOCKS,
    BY_SOURCES_UP_TO,
    Gravity,
    self_acceleration,
    self_potential_energy,
)

roots = jax.jit(lambda x: (inverse_root(x), inverse_cube(x)))
# A number on either side of each border between the forms, with and without a last block in part.
SIZES = (3, 16, BY_SOURCES_UP_TO, BY_SOURCES_UP_TO + 1, 2 * BLOCKS * BLOCK)


@partial(jax.jit, static_argnums=2)
def forces_and_slopes(position, mass, softening):
    """Accelerations, and the derivatives of a weighted sum of them, backwards."""
    weights = jnp.cos(jnp.arange(position.size)).reshape(position.shape)
    acceleration, back = jax.vjp(partial(self_acceleration, softening=softening), position, mass)
    return self_acceleration(position, mass, softening), acceleration, back(weights)


def bodies(count, dtype=np.float64):
    rng = np.random.default_rng(count)
    position, mass = rng.normal(size=(count, 3)), rng.uniform(0.5, 2, count)
    position[1] = position[0] + 1e-7  # a close pair
    mass[2] = 0
    return jnp.asarray(position, dtype), jnp.asarray(mass, dtype)


def differences(position, softening):
    """x_j - x_i and 1/r, 0 where i = j."""
    dx = position[None] - position[:, None]
    r_squared = (dx**2).sum(2) + softening**2
    np.fill_diagonal(r_squared, 1)
    inverse = 1 / np.sqrt(r_squared)
    np.fill_diagonal(inverse, 0)
    return dx, inverse


@pytest.mark.parametrize(("dtype", "largest"), [(np.float64, 30.0), (np.float32, 10.0)])
def test_roots_are_exact_to_rounding_at_every_size(dtype, largest):
    exponents = np.linspace(-largest, largest, 20_001)
    x = np.asarray(10**exponents, dtype)
    root, cube = (np.asarray(y, np.longdouble) for y in roots(x))
    exact = 1 / np.sqrt(x.astype(np.longdouble))
    eps = np.finfo(dtype).eps
    assert np.max(np.abs(root / exact - 1)) < 2 * eps
    assert np.max(np.abs(cube / exact**3 - 1)) < 6 * eps


def test_roots_of_nothing_are_nothing_and_have_no_slope():
    root, cube = roots(jnp.zeros(3))
    assert not root.any() and not cube.any()
    for function in (inverse_root, inverse_cube):
        assert jax.grad(function)(jnp.zeros(())) == 0


def test_slopes_of_roots_are_powers():
    x = jnp.geomspace(1e-6, 1e6, 7)
    for function, power in ((inverse_root, -0.5), (inverse_cube, -1.5)):
        slope, bend = (jax.vmap(f)(x) for f in (jax.grad(function), jax.grad(jax.grad(function))))
        np.testing.assert_allclose(slope, power * x ** (power - 1), rtol=1e-14)
        np.testing.assert_allclose(bend, power * (power - 1) * x ** (power - 2), rtol=1e-14)


@pytest.mark.parametrize(
    ("count", "softening"), list(zip(SIZES, (0.0, 0.05, 0.0, 0.05, 0.0), strict=True))
)
def test_every_form_is_the_double_sum_and_so_are_its_derivatives(count, softening):
    position, mass = bodies(count)
    plain, under_grad, (of_position, of_mass) = forces_and_slopes(position, mass, softening)
    x, m = np.asarray(position), np.asarray(mass)
    dx, inverse = differences(x, softening)
    pulls = inverse[..., None] ** 3 * dx
    sizes = np.abs(m[:, None] * pulls).sum(1).max()
    for found in (plain, under_grad):
        np.testing.assert_allclose(found, (m[:, None] * pulls).sum(1), rtol=0, atol=1e-13 * sizes)
    # Sum_i w_i . a_i: each pair pulls its two bodies, and the tensor of its tide is symmetric.
    w = np.cos(np.arange(x.size)).reshape(x.shape)
    np.testing.assert_allclose(
        of_mass, (w[:, None] * pulls).sum((0, 2)), rtol=0, atol=1e-13 * sizes
    )
    # x_i feels the pull of j on it, and that of it on j.
    across = w[None] * m[:, None, None] - w[:, None] * m[None, :, None]
    along = (dx * across).sum(2, keepdims=True)
    tides = inverse[..., None] ** 3 * across - 3 * inverse[..., None] ** 5 * along * dx
    scale = np.abs(tides).sum(1).max()
    np.testing.assert_allclose(of_position, tides.sum(1), rtol=0, atol=1e-12 * scale)


@pytest.mark.parametrize("count", [3, BY_SOURCES_UP_TO, BY_SOURCES_UP_TO + 1])
def test_single_precision_is_that_of_its_sums(count):
    position, mass = bodies(count, np.float32)
    single = jax.jit(self_acceleration)(position, mass)
    double = jax.jit(self_acceleration)(*(jnp.asarray(z, jnp.float64) for z in (position, mass)))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, double, rtol=0, atol=2e-5 * np.max(np.abs(double)))


def test_many_systems_at_once_are_those_one_by_one():
    position, mass = (jnp.stack(z) for z in zip(*(bodies(n) for n in (3, 3)), strict=True))
    alone, together = Gravity(0.05), Gravity(0.05, by_component=True)
    time = jnp.zeros(())

    @jax.jit
    def both(position, mass):
        one = jax.vmap(lambda x, m: alone.acceleration(x, m, time))(position, mass)
        last = [jnp.moveaxis(z, 0, -1) for z in (position, mass)]
        accelerate = partial(together.acceleration, time=time)
        many = jax.vmap(accelerate, in_axes=-1, out_axes=-1)(*last)
        return one, jnp.moveaxis(many, -1, 0)

    one, many = both(position, mass)
    np.testing.assert_allclose(many, one, rtol=1e-13)


@pytest.mark.parametrize(("count", "softening"), [(7, 0.0), (16, 0.05), (50, 0.0)])
def test_the_potential_energy_is_the_double_sum_and_its_slopes_are_the_forces(count, softening):
    position, mass = bodies(count)
    if softening:
        position = position.at[1].set(position[0])
    value, slope = jax.jit(jax.value_and_grad(partial(self_potential_energy, softening=softening)))(
        position, mass
    )
    alone = jax.jit(partial(self_potential_energy, softening=softening))(position, mass)
    x, m = np.asarray(position), np.asarray(mass)
    exact = -0.5 * np.sum(m[:, None] * m * differences(x, softening)[1])
    np.testing.assert_allclose([value, alone], exact, rtol=1e-13)
    forces = mass[:, None] * self_acceleration(position, mass, softening)
    np.testing.assert_allclose(slope, -forces, rtol=0, atol=1e-12 * np.max(np.abs(forces)))
