"""Massless bodies: every rule of pairs takes finite steps, with finite gradients.

The planets of a star of mass 1 run on Kepler orbits; that at a = 1 returns after 2 pi.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.physics.precision import check_precision
from jaxstepper.stepping import literature
from jaxstepper.stepping.many_rollouts import roll_out

STAR, INNER, OUTER = [1, 0, 0, 0, 0], [0, 1, 0, 0, 1], [0, -1, 0, 0, -np.sqrt(1.5)]
SWARM = [
    [0, 3 * np.cos(k), 3 * np.sin(k), -np.sin(k) / 3**0.5, np.cos(k) / 3**0.5] for k in range(18)
]
GRAVITY = js.Gravity()
# Phase errors over an orbit at the default eta or tolerance.
RULES = {
    "distance-over-acceleration": 1e-3,
    "free-fall": 1e-3,
    "huayno": 1e-3,
    "hairer-soderlind": 1e-3,
    "power-law": 1e-3,
    "kepler": 0.2,
    "plummer": 0.2,
}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def rule_named(name):
    if name in ("kepler", "plummer"):
        return js.load_controller(name, GRAVITY)
    return literature.by_name(name, GRAVITY)


FEW, MANY = [STAR, INNER, OUTER], [STAR, INNER, OUTER, *SWARM]


@pytest.mark.parametrize(
    ("name", "bodies"),
    [*((name, FEW) for name in RULES), ("free-fall", MANY), ("hairer-soderlind", MANY)],
)
def test_massless_planets_keep_to_their_kepler_orbits(name, bodies):
    start = js.from_table(bodies, GRAVITY.acceleration)
    limits = js.Limits(time=2 * np.pi, steps=20_000)
    end = js.run_until(rule_named(name), GRAVITY, start, limits).particles
    assert float(end.time) == pytest.approx(2 * np.pi)
    np.testing.assert_array_equal(end.position[0], 0)
    np.testing.assert_allclose(end.position[1], [1, 0], atol=RULES[name])
    # The outer one has a = 2 and energy -1/4 per mass.
    energy = 0.5 * jnp.sum(end.velocity[2] ** 2) - 1 / jnp.linalg.norm(end.position[2])
    assert float(energy) == pytest.approx(-0.25, abs=2e-2)


@pytest.mark.parametrize(
    ("name", "bodies"),
    [*((name, FEW) for name in RULES), ("huayno", MANY), ("kepler", MANY)],
)
def test_gradients_are_finite_beside_massless_bodies(name, bodies):
    rule = rule_named(name)

    @jax.jit
    @jax.grad
    def slope(table):
        start = js.from_table(table, GRAVITY.acceleration)
        return rule.step_size(rule.init(start), start)[0]

    assert np.all(np.isfinite(slope(np.array(bodies, float))))


def test_forces_beside_massless_bodies_have_finite_gradients():
    @jax.jit
    @jax.grad
    def slope(table):
        return jnp.sum(js.from_table(table, GRAVITY.acceleration).acceleration)

    for bodies in (FEW, MANY):
        assert np.all(np.isfinite(slope(np.array(bodies, float))))


@pytest.mark.parametrize("name", RULES)
def test_massless_bodies_may_meet(name):
    rule = rule_named(name)

    @jax.jit
    def step(table):
        apart = js.from_table(table, GRAVITY.acceleration)
        return rule.step_size(rule.init(apart), apart)[0]

    assert 0.001 < float(step(np.array([STAR, INNER, INNER], float))) < 1


def test_a_massless_pair_shortens_no_step():
    close = [0, 1 + 1e-9, 0, 0, 1]
    alone, together = (
        js.FreeFall(0.01).step_size((), js.from_table(table, GRAVITY.acceleration))[0]
        for table in ([STAR, INNER], [STAR, INNER, close])
    )
    assert float(together) == pytest.approx(float(alone), rel=1e-6)


@pytest.mark.parametrize("run", [js.record, roll_out], ids=lambda run: run.__name__)
def test_the_logarithmic_hamiltonian_refuses_a_single_mass(run):
    start = js.from_table(FEW, GRAVITY.acceleration)
    rule = js.scaled(literature.logarithmic_hamiltonian(0.01, GRAVITY), 0.5)
    with pytest.raises(UserError, match="two bodies with a mass.*free-fall") as refused:
        if run is roll_out:
            run(None, rule, GRAVITY, [start], [js.Limits(steps=3)])
        else:
            run(rule, GRAVITY, start, js.Limits(steps=3))
    assert "\n" not in str(refused.value)


def test_the_precision_of_massless_bodies_is_checked():
    tables = np.array([[STAR, INNER]], float)
    for dtype in ("float32", "float64"):
        check_precision(tables, "table", dtype, 0.0)
    check_precision(tables[:, :1], "table", "float32", 0.0)
