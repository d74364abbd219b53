"""Step-size rules in an external field: no step is longer than the field allows.

Orbits in the disc of Miyamoto and Nagai are circles at R = 2. In the tide, the reference is a
leapfrog of 40,000 equal steps.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.physics.field_rate import field_time, squared_rate_and_slope, squared_rates
from jaxstepper.physics.gravity import tidal_field
from jaxstepper.stepping import literature

SPEED = 2 / (2**2 + 1.1**2) ** 0.75
TURN = 2 * np.pi * 2 / SPEED
STARS = [[1e-6, 2, 0, 0, 0, SPEED, 0], [1e-6, -2, 0, 0, 0, -SPEED, 0]]
MASSLESS = [[0.0, *star[1:]] for star in STARS]
TIDE = js.Gravity(external=tidal_field(1000.0, (10.0, 0.0)))
PAIRS = ("distance-over-acceleration", "free-fall", "huayno", "hairer-soderlind", "power-law")
LEARNED = ("kepler", "plummer")


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def disc(position, time, a=1.0, b=0.1):
    x, y, z = position.T
    return -1 / jnp.sqrt(x**2 + y**2 + (a + jnp.sqrt(z**2 + b**2)) ** 2)


GALAXY = js.Gravity(external=js.ExternalField.from_potential(disc))


def rule_named(name, gravity):
    if name in LEARNED:
        return js.load_controller(name, gravity)
    return literature.by_name(name, gravity)


@partial(jax.jit, static_argnums=1)
def state_of(table, gravity):
    return js.from_table(table, gravity.acceleration)


def end_of(rule, gravity, table, time):
    start = state_of(np.array(table), gravity)
    return js.run_until(rule, gravity, start, js.Limits(time=time, steps=20_000))


@pytest.mark.parametrize(
    ("name", "stars"),
    [
        *((name, STARS) for name in (*PAIRS, *LEARNED)),
        *((name, STARS[:1]) for name in ("free-fall", "hairer-soderlind", "kepler", "plummer")),
    ],
)
def test_a_turn_in_the_disc_ends_where_it_began(name, stars):
    end = end_of(rule_named(name, GALAXY), GALAXY, stars, TURN)
    x = end.particles.position[0]
    assert abs(float(jnp.linalg.norm(x)) - 2) < 1e-3
    assert abs(float(x[1])) < 0.05
    assert float(end.particles.time) == pytest.approx(TURN)


@pytest.mark.parametrize("name", ["hairer-soderlind", "plummer"])
def test_massless_stars_turn_too(name):
    end = end_of(rule_named(name, GALAXY), GALAXY, [*MASSLESS, MASSLESS[0]], TURN)
    assert abs(float(jnp.linalg.norm(end.particles.position[0])) - 2) < 1e-3


@pytest.mark.parametrize("name", ["free-fall", "kepler"])
def test_a_symmetrized_rule_keeps_the_field_too(name):
    end = end_of(js.symmetrized(rule_named(name, GALAXY)), GALAXY, STARS, TURN)
    assert abs(float(jnp.linalg.norm(end.particles.position[0])) - 2) < 1e-3


def test_the_acceleration_rule_is_shortened_at_the_centre_where_nothing_accelerates():
    gravity = js.Gravity(0.1, GALAXY.external)
    rule = literature.by_name("acceleration", gravity)
    start = js.from_table([[1, 0.0, 0, 0, 0.1, 0, 0]], gravity.acceleration)
    dt, _ = rule.step_size(rule.init(start), start)
    # |J| at the centre: 1/1.1^3 twice, and (a + b) / b times that.
    rate = np.sqrt(np.sqrt(2 + 11.0**2) / 1.1**3)
    assert float(dt) == pytest.approx(0.1 / rate)


def test_light_bodies_in_a_strong_tide():
    bodies = np.array([[1e-6, 0.1, 0, 0, 0], [1e-6, -0.1, 0.2, 0, 0]])
    exact = js.run_steps(js.fixed(2 / 40_000), TIDE, state_of(bodies, TIDE), 40_000)
    exact = exact.particles.position[0]
    assert float(exact[0]) == pytest.approx(0.891, abs=1e-3)
    for name in (*PAIRS, *LEARNED):
        end = end_of(rule_named(name, TIDE), TIDE, bodies, 2.0).particles
        np.testing.assert_allclose(end.position[0], exact, atol=1e-3, err_msg=name)


def test_the_rate_of_a_tide_is_that_of_free_fall():
    start = js.from_table([[1, 0.0, 0, 0, 0]], TIDE.acceleration)
    # The tidal tensor of M = 1000 at R = 10 is diag(2, -1).
    assert float(field_time(TIDE.external, start)) == pytest.approx(5**-0.25)


def test_a_uniform_field_sets_no_step_and_one_that_swings_does():
    def swing(position, time):
        return -jnp.cos(7.0 * time) * position[:, 0]

    constant = js.ExternalField.from_potential(lambda x, t: -3.0 * x[:, 0])
    start = js.from_table([[1, 1.0, 2.0, 0, 0]], js.Gravity(external=constant).acceleration)
    assert float(field_time(constant, start)) == np.inf
    swinging = js.ExternalField.from_potential(swing)
    for time in (0.0, 0.3, np.pi / 14):
        state = start.replace(time=jnp.asarray(time))
        assert float(field_time(swinging, state)) == pytest.approx(1 / 7)


def test_the_slope_of_the_rate_is_its_difference_along_the_motion():
    state = js.from_table([[1, 2.0, 1.0, 0.3, 0.2, -0.4, 0.1]], GALAXY.acceleration)
    total, slope = squared_rate_and_slope(GALAXY.external, state)
    h = 1e-5
    ahead, behind = (
        jnp.sum(
            squared_rates(
                GALAXY.external, state.replace(position=state.position + s * state.velocity)
            )
        )
        for s in (h, -h)
    )
    assert float(total) == pytest.approx(float(jnp.sum(squared_rates(GALAXY.external, state))))
    assert float(slope) == pytest.approx(float(ahead - behind) / (2 * h), rel=1e-6)


def test_scaling_a_rule_scales_its_steps_in_the_field():
    start = js.from_table(STARS, GALAXY.acceleration)

    @jax.jit
    def first_dt(rule):
        return rule.step_size(rule.init(start), start)[0]

    for name in (*PAIRS, "kepler"):
        rule = rule_named(name, GALAXY)
        one, half = first_dt(rule), first_dt(rule.scaled(0.5))
        assert float(half) == pytest.approx(0.5 * float(one), rel=1e-2)


@pytest.mark.parametrize(
    "rule",
    [js.FreeFall(0.01), js.symmetrized(js.FreeFall(0.01)), js.scaled(js.Huayno(0.01), 0.5)],
    ids=["plain", "symmetrized", "scaled"],
)
def test_a_rule_made_without_the_field_is_refused_in_it(rule):
    with pytest.raises(UserError, match=r"does not see the external field.*external=gravity"):
        end_of(rule, GALAXY, STARS, TURN)


def test_rules_that_cannot_see_a_field_are_refused():
    with pytest.raises(UserError, match=r"logarithmic-hamiltonian.*free-fall"):
        literature.by_name("logarithmic-hamiltonian", GALAXY)
    with pytest.raises(UserError, match="does not see the external field"):
        end_of(js.load_controller("kepler", js.Gravity()), GALAXY, STARS, TURN)


@pytest.mark.parametrize("name", [*PAIRS, *LEARNED])
def test_one_body_without_a_field_is_refused_in_one_line(name):
    gravity = js.Gravity()
    with pytest.raises(UserError, match="one body") as caught:
        end_of(rule_named(name, gravity), gravity, STARS[:1], TURN)
    assert "\n" not in str(caught.value)
