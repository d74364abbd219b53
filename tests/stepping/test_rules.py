"""Step-size rules against closed forms, finite differences, rebound and published behaviour."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rebound
from jax import lax
from jax.tree_util import Partial
from stepping.round_trip import there_and_back

from jaxstepper.errors import UserError
from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.learned import LearnedRule, OrbitalRule
from jaxstepper.network.step_network import StepNetwork
from jaxstepper.physics.diagnostics import total_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import (
    figure_eight,
    kepler_pair,
    pythagorean,
    random_table,
)
from jaxstepper.physics.pairs import ALL_PAIRS_UP_TO
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping import literature as rules
from jaxstepper.stepping.rollout import (
    Limits,
    advance,
    force_evaluations,
    is_running,
    run_steps,
    run_until,
    start,
)
from jaxstepper.stepping.rule import (
    Controller,
    Fixed,
    Memoryless,
    Rule,
    Scaled,
    Symmetrized,
    fixed,
    scaled,
    symmetrized,
)
from jaxstepper.stepping.scheme import Scheme

GRAVITY = Gravity()
SOFT = Gravity(0.05)
# At apocentre, and with a period of 2 pi.
KEPLER = kepler_pair(0.9, total_mass=1.0, phase=np.pi)


@partial(jax.jit, static_argnums=1)
def state_of(table, gravity=GRAVITY):
    return from_table(table, gravity.acceleration, jnp.float64)


def network(features):
    """A network whose steps vary from state to state; drawn by numpy, which compiles nothing."""
    draw, inputs, width = np.random.default_rng(1), features.size, 8

    def layer(fan_in, fan_out, bias):
        kernel = draw.uniform(-1, 1, (fan_in, fan_out)) / np.sqrt(fan_in)
        return {"kernel": jnp.asarray(kernel), "bias": jnp.full(fan_out, bias)}

    params = {"Dense_0": layer(inputs, width, 0.0), "Dense_1": layer(width, 2, -4.0)}
    return StepNetwork((width,), "tanh", 0.0), {"params": params}


def learned_rule(features=FeatureSpec()):  # noqa: B008
    return LearnedRule(*network(features), features, GRAVITY)


@partial(jax.jit, static_argnames="gravity")
def errors_on_the_way(controller, table, end, gravity=GRAVITY):
    """Steps, largest and last |E/E0 - 1| of a rollout whose last step is not shortened."""
    particles = from_table(table, gravity.acceleration, jnp.float64)
    initial = total_energy(particles, gravity)

    def body(carry):
        rollout, largest, _ = carry
        rollout = advance(controller, gravity, rollout)
        error = jnp.abs(total_energy(rollout.particles, gravity) / initial - 1)
        return rollout, jnp.maximum(largest, error), error

    running = lambda carry: is_running(carry[0], Limits(end, 1_000_000))  # noqa: E731
    rollout, largest, last = lax.while_loop(
        running, body, (start(controller, GRAVITY, particles), 0.0, 0.0)
    )
    return rollout.steps, largest, last


ROWS = [
    # controller, steps per orbit, largest and last error over 100 orbits of e = 0.9
    (rules.power_law(0.05), 152, "1.5e-01", "1.3e-01"),
    (rules.power_law(0.02), 415, "1.1e-02", "9.0e-03"),
    (rules.power_law(0.01), 837, "1.7e-03", "1.1e-03"),
    (symmetrized(rules.free_fall(0.05)), 167, "1.4e-02", "5.1e-08"),
    (symmetrized(rules.free_fall(0.02)), 418, "2.2e-03", "3.6e-09"),
    (symmetrized(rules.free_fall(0.01)), 837, "5.5e-04", None),
    (fixed(2 * np.pi / 4000), 4000, "5.8e-03", None),
    (rules.hairer_soderlind(0.1), 84, "5.5e-02", None),
    (scaled(rules.hairer_soderlind(0.1), 0.3), 279, "5.0e-03", None),
    (rules.hairer_soderlind(0.01), 837, "5.5e-04", None),
    (rules.huayno(0.1), 118, "2.8e-02", None),
    (scaled(rules.huayno(0.1), 0.3), 394, "2.5e-03", None),
]


@pytest.mark.parametrize(("controller", "per_orbit", "largest", "last"), ROWS)
def test_the_known_errors_of_an_eccentric_orbit(controller, per_orbit, largest, last):
    # Rules of a kind compile once: their numbers are arguments.
    steps, worst, final = errors_on_the_way(controller, KEPLER, 200 * np.pi)
    assert round(int(steps) / 100) == per_orbit
    assert f"{worst:.1e}" == largest
    assert last is None or f"{final:.1e}" == last


def test_the_logarithmic_hamiltonian_keeps_two_bodies_on_their_orbit():
    # 0.125 in units of the orbit; at apocentre R is 1.9.
    rule = rules.logarithmic_hamiltonian(0.125 / np.sqrt(1.9), GRAVITY)
    steps, worst, _ = errors_on_the_way(rule, KEPLER, 200 * np.pi)
    assert round(int(steps) / 100) == 50
    assert worst < 3e-13
    few = scaled(rule, 4.0)
    steps, worst, _ = errors_on_the_way(few, KEPLER, 200 * np.pi)
    assert round(int(steps) / 100) == 13
    assert worst < 3e-13


# --- each rule against its formula ---------------------------------------------------------------


def relative_motion(table):
    """mu, r, v of every pair; plain numpy."""
    dim = (table.shape[1] - 1) // 2
    i, j = np.triu_indices(len(table), k=1)
    mass, x, v = table[:, 0], table[:, 1 : 1 + dim], table[:, 1 + dim :]
    return mass[i] + mass[j], x[j] - x[i], v[j] - v[i]


def expected_steps(name, eta, table, softening):
    mu, r, v = relative_motion(table)
    distance = np.sqrt(np.sum(r * r, axis=1) + softening**2)
    r_dot_v, speed = np.sum(r * v, axis=1), np.linalg.norm(v, axis=1)
    accelerations = np.asarray(state_of(table, Gravity(softening)).acceleration)
    if name == "acceleration":
        return eta * np.sqrt(softening / np.linalg.norm(accelerations, axis=1).max())
    if name == "distance_over_acceleration":
        i, j = np.triu_indices(len(table), k=1)
        a = np.linalg.norm(accelerations[j] - accelerations[i], axis=1)
        return eta * np.sqrt(distance / a).min()
    if name == "free_fall":
        return eta * np.sqrt(distance**3 / mu).min()
    if name == "power_law":
        return eta * (distance**1.5).min()
    if name == "hairer_soderlind":
        tides = mu / distance**3
        slope = -1.5 * np.sum(tides * r_dot_v / distance**2) / np.sum(tides)
        return eta / (np.sqrt(np.sum(tides)) + 0.5 * eta * slope)
    t1 = eta / np.sqrt(2) * np.sqrt(distance**3 / mu)
    d1 = 1.5 * t1 * r_dot_v / distance**2
    t2 = eta * distance / speed
    d2 = t2 * r_dot_v / distance**2 * (1 + mu / (speed**2 * distance))
    ahead = [t / (1 - np.minimum(d, 1) / 2) for t, d in ((t1, d1), (t2, d2))]
    return np.min(ahead)


NAMES = (
    "acceleration",
    "distance_over_acceleration",
    "free_fall",
    "power_law",
    "huayno",
    "hairer_soderlind",
)


@pytest.mark.parametrize("count", [2, 5, ALL_PAIRS_UP_TO + 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_rule_agrees_with_its_formula(name, count):
    eta, softening = 0.3, 0.05
    table = random_table(count, count, 3, 0.7, 1.0, 1.0)
    table[:, 0] *= np.linspace(1, 2, count)
    rule = getattr(rules, name)(eta, softening=softening)
    particles = state_of(table, SOFT)
    dt, _ = jax.jit(lambda p: rule.step_size(rule.init(p), p))(particles)
    np.testing.assert_allclose(dt, expected_steps(name, eta, table, softening), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_has_a_gradient_at_rest_and_for_many_bodies(name):
    # Of many bodies, some rules take the least of all pairs, and one the sum.
    many = [random_table(0, ALL_PAIRS_UP_TO + 1, 2, 1.0, 1.0, 1.0)]
    for table in [pythagorean(), *many[: name in ("huayno", "hairer_soderlind")]]:

        @jax.jit
        @jax.value_and_grad
        def step(table, softening):
            particles = from_table(table, SOFT.acceleration, jnp.float64)
            rule = getattr(rules, name)(0.1, softening=softening)
            return rule.step_size(rule.init(particles), particles)[0]

        softening = 0.05
        direction = np.random.default_rng(1).normal(size=table.shape)
        gradient = step(table, softening)[1]
        assert np.all(np.isfinite(gradient))
        h = 1e-6
        ahead, behind = (step(table + s * h * direction, softening)[0] for s in (1, -1))
        if table[0, 3] or name != "huayno":  # at rest, speeds have no derivative there
            np.testing.assert_allclose(
                np.vdot(gradient, direction), (ahead - behind) / (2 * h), rtol=1e-4
            )


def test_many_bodies_take_memory_for_rows_not_for_all_pairs():
    count = 4096
    table = jax.ShapeDtypeStruct((count, 7), jnp.float64)

    def step(table):
        # The acceleration is as costly, and not looked at.
        particles = from_table(table, lambda x, m, t: x, jnp.float64)
        rule = rules.huayno(0.1)
        return rule.step_size((), particles)[0]

    memory = jax.jit(step).lower(table).compile().memory_analysis()
    assert memory.temp_size_in_bytes < count * count


# --- what composes -------------------------------------------------------------------------------


REVERSIBLE = {
    "free fall": symmetrized(rules.free_fall(0.03)),
    "distance over acceleration": symmetrized(rules.distance_over_acceleration(0.03)),
    "power law": scaled(symmetrized(rules.power_law(0.05, 1.2)), 0.6),
    "acceleration": symmetrized(rules.acceleration(0.05, 0.3)),
    "Hairer and Soderlind": rules.hairer_soderlind(0.03),
    "logarithmic Hamiltonian": rules.logarithmic_hamiltonian(0.1, GRAVITY),
    "fixed": fixed(0.01),
    "learned": symmetrized(learned_rule()),
    "learned, rich": symmetrized(scaled(learned_rule(FeatureSpec("rich")), 0.5)),
}


OF_MANY_PAIRS = ("free fall", "Hairer and Soderlind", "logarithmic Hamiltonian", "learned, rich")


@pytest.mark.parametrize(
    ("name", "table"),
    [
        *((name, KEPLER) for name in REVERSIBLE),
        *((name, figure_eight()) for name in OF_MANY_PAIRS),
    ],
)
def test_reversible_rules_return_to_their_start(name, table):
    first = state_of(table)
    there, back = there_and_back(REVERSIBLE[name], first, 300)
    assert np.abs(there.position - first.position).max() > 0.1
    np.testing.assert_allclose(back.position, first.position, rtol=0, atol=1e-9)
    np.testing.assert_allclose(back.velocity, -first.velocity, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rule", [rules.free_fall(0.03), learned_rule()], ids=["fall", "learned"])
def test_plain_rules_do_not_return(rule):
    first = state_of(KEPLER)
    _, back = there_and_back(rule, first, 300)
    assert np.abs(back.position - first.position).max() > 1e-5


def test_what_cannot_be_symmetrised_is_refused_with_the_reason():
    past = learned_rule(FeatureSpec("delta_mag", 2))
    with pytest.raises(UserError, match="sees the 2 states before"):
        symmetrized(past)
    with pytest.raises(UserError, match="sees the 2 states before"):
        symmetrized(scaled(past, 2.0))
    with pytest.raises(UserError, match="HUAYNO predicts along the velocities"):
        symmetrized(rules.huayno(0.1))
    for rule in (rules.hairer_soderlind(0.1), symmetrized(rules.free_fall(0.1))):
        with pytest.raises(UserError, match="reversible as it is"):
            symmetrized(rule)
    with pytest.raises(UserError, match="needs a softening > 0"):
        rules.acceleration(0.1, 0.0)


def test_symmetrised_steps_stay_within_twice_what_is_wanted():
    rule = symmetrized(rules.free_fall(1.0))
    particles = state_of(KEPLER)
    wanted = rules.free_fall(1.0).step_size((), particles)[0]
    # A memory of much shorter steps would make rho = 2 / tau - rho negative.
    dt, _ = rule.step_size((10 / wanted, ()), particles)
    np.testing.assert_allclose(dt, 2 * wanted, rtol=1e-14)
    dt, _ = rule.step_size((1.2 / wanted, ()), particles)
    np.testing.assert_allclose(dt, wanted / 0.8, rtol=1e-14)


@pytest.mark.parametrize(
    "rule",
    [
        fixed(0.01),
        rules.huayno(0.1),
        rules.hairer_soderlind(0.1),
        rules.logarithmic_hamiltonian(0.1, GRAVITY),
        symmetrized(learned_rule()),
        learned_rule(FeatureSpec("delta_mag", 2)),
    ],
    ids=["fixed", "huayno", "hairer", "logarithmic", "symmetrised", "history"],
)
def test_a_factor_scales_any_rule_and_factors_multiply(rule):
    particles = state_of(figure_eight())

    def first_two(rule):
        first = advance(rule, GRAVITY, start(rule, GRAVITY, particles))
        return first.particles.dt, advance(rule, GRAVITY, first).particles.dt

    halved, twice = jax.jit(first_two)(scaled(rule, 0.5)), scaled(scaled(rule, 0.25), 2.0)
    np.testing.assert_allclose(halved, jax.jit(first_two)(twice), rtol=1e-14)
    np.testing.assert_allclose(halved[0], 0.5 * jax.jit(first_two)(rule)[0], rtol=0.1)


@pytest.mark.parametrize("name", ["huayno", "hairer_soderlind", "symmetrized"])
def test_factors_and_systems_are_vmapped(name):
    def rule(factor):
        base = rules.free_fall(0.1) if name == "symmetrized" else getattr(rules, name)(0.1)
        return scaled(symmetrized(base) if name == "symmetrized" else base, factor)

    tables = np.stack([kepler_pair(e, total_mass=1.0, phase=np.pi) for e in (0.3, 0.6)])
    factors = np.array([0.5, 1.0])

    @jax.jit
    def grid(factors, tables):
        def one(factor, table):
            particles = from_table(table, GRAVITY.acceleration, jnp.float64)
            return run_until(rule(factor), GRAVITY, particles, Limits(time=2.0))

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(factors, tables)

    together = grid(factors, tables)
    for i, factor in enumerate(factors):
        for k, table in enumerate(tables):
            alone = run_until(rule(factor), GRAVITY, state_of(table), Limits(time=2.0))
            assert together.steps[i, k] == alone.steps
            np.testing.assert_allclose(
                together.particles.position[i, k], alone.particles.position, rtol=1e-9
            )


def test_the_gradient_through_a_symmetrised_rollout():
    @jax.jit
    @jax.value_and_grad
    def end(eta):
        rule = symmetrized(rules.free_fall(eta))
        return jnp.sum(run_steps(rule, GRAVITY, state_of(KEPLER), 10).particles.position[0])

    h = 1e-6
    ahead, behind = end(0.1 + h)[0], end(0.1 - h)[0]
    np.testing.assert_allclose(end(0.1)[1], (ahead - behind) / (2 * h), rtol=1e-7)


def test_evaluations_are_those_of_the_start_the_leapfrog_and_the_features():
    calls = []

    @jax.tree_util.register_static
    class Counting(Gravity):
        def acceleration(self, position, mass, time):
            jax.debug.callback(lambda: calls.append(1))
            return super().acceleration(position, mass, time)

    gravity = Counting()
    for rule in (rules.huayno(0.1), rules.logarithmic_hamiltonian(0.1, gravity), fixed(0.1)):
        calls.clear()
        run_steps(rule, gravity, from_table(KEPLER, gravity.acceleration, jnp.float64), 7)
        jax.effects_barrier()
        assert len(calls) == force_evaluations(rule, 7) == 8
    # A last step that is shortened is searched for, and every try counts.
    rule = rules.logarithmic_hamiltonian(0.1, gravity)
    calls.clear()
    first = from_table(KEPLER, gravity.acceleration, jnp.float64)
    end = run_until(rule, gravity, first, Limits(time=1.0))
    jax.effects_barrier()
    searched = int(rule.scheme.searched(end.carried))
    assert 3 < searched < 30
    assert len(calls) == force_evaluations(rule, int(end.steps), searched)
    # Features that soften differently ask for accelerations of their own.
    other = LearnedRule(*network(FeatureSpec()), FeatureSpec(softening=0.1), GRAVITY)
    assert force_evaluations(symmetrized(other), 7) == 15


# --- rules as pytrees ----------------------------------------------------------------------------


PLAIN = {
    "fixed": Fixed(0.01),
    "memoryless": Memoryless(Partial(lambda dt, particles: dt, 0.01)),
    "from functions": Controller(lambda particles: (), Partial(lambda dt, m, p: (dt, m), 0.01)),
    "acceleration": rules.Acceleration(0.1, 0.05),
    "distance over acceleration": rules.DistanceOverAcceleration(0.1),
    "free fall": rules.FreeFall(0.1),
    "power law": rules.PowerLaw(0.1),
    "HUAYNO": rules.Huayno(0.1),
    "Hairer and Soderlind": rules.HairerSoderlind(0.1),
    "logarithmic": rules.LogarithmicHamiltonian(0.1, GRAVITY),
    "learned": learned_rule(),
    "orbital": OrbitalRule(*network(FeatureSpec("orbital")), 1e-3),
    "scaled": Scaled(rules.FreeFall(0.1), 0.5),
    "symmetrised": Symmetrized(rules.FreeFall(0.1)),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_rule_is_a_pytree_of_its_numbers(name):
    rule = PLAIN[name]
    leaves, structure = jax.tree.flatten(rule)
    assert leaves and all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves)
    assert jax.tree.structure(jax.tree.map(lambda x: 2 * x, rule)) == structure
    assert type(jax.tree.unflatten(structure, leaves)) is type(rule)
    # JAX's own dataclasses fail this one, and run the program of another rule.
    assert [other for other in PLAIN if jax.tree.structure(PLAIN[other]) == structure] == [name]


@pytest.mark.parametrize("name", PLAIN)
def test_rules_of_a_kind_share_a_program(name):
    step = jax.jit(lambda rule, particles: rule.step_size(rule.init(particles), particles)[0])
    dts = [
        step(rule, state_of(KEPLER))
        for rule in (PLAIN[name], jax.tree.map(lambda x: 0.5 * x, PLAIN[name]))
    ]
    assert step._cache_size() == 1
    assert dts[0] != dts[1]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (rules.Huayno(0.1), rules.Huayno(0.05)),
        (rules.HairerSoderlind(0.1, 0.2), rules.HairerSoderlind(0.05, 0.2)),
        (rules.FreeFall(0.1), Scaled(rules.FreeFall(0.1), 0.5)),
        (Fixed(0.1), Scaled(Fixed(0.1), 0.5)),
        (Symmetrized(rules.FreeFall(0.1)), Scaled(Symmetrized(rules.FreeFall(0.1)), 0.5)),
    ],
)
def test_a_scaled_rule_keeps_its_kind_where_a_number_of_its_own_scales_it(rule, expected):
    assert rule.scaled(0.5) == scaled(rule, 0.5) == expected


def test_scaling_a_symmetrised_network_scales_its_tolerance():
    rule = Symmetrized(PLAIN["orbital"]).scaled(0.5)
    assert isinstance(rule, Symmetrized) and isinstance(rule.rule, OrbitalRule)
    assert rule.rule.tolerance == 0.25e-3


def test_many_rules_side_by_side_are_each_alone():
    particles = state_of(figure_eight())
    etas = jnp.array([0.05, 0.1])
    many = rules.Huayno(etas, jnp.array([0.0, 0.1]))
    together = jax.vmap(lambda rule: run_steps(rule, GRAVITY, particles, 5))(many)
    softened = jax.vmap(lambda eta: run_steps(rules.Huayno(eta, 0.1), GRAVITY, particles, 5))(etas)
    for i, eta in enumerate((0.05, 0.1)):
        for batch, softening in ((together, many.softening[i]), (softened, 0.1)):
            alone = run_steps(rules.Huayno(eta, softening), GRAVITY, particles, 5)
            mine = batch.particles.position[i]
            np.testing.assert_allclose(mine, alone.particles.position, rtol=1e-12)


def test_a_rule_of_ones_own_is_a_class_with_its_numbers():
    class Passage(Rule):
        eta: float
        evaluations = 2

        def step_size(self, memory, particles):
            return self.eta * particles.mass[0], memory

    assert Passage(0.1) == Passage(0.1) != Passage(0.2)
    for rule in (Passage(0.2), Symmetrized(Passage(0.2)), Passage(0.1).scaled(2.0)):
        rollout = run_steps(rule, GRAVITY, state_of(KEPLER), 3)
        np.testing.assert_allclose(rollout.particles.time, 3 * 0.2 * 0.5)
        assert force_evaluations(rule, 3) == 10


def test_a_wrapped_rule_keeps_its_scheme():
    class Leap(Scheme):
        times: float

        def step(self, carried, particles, dt, gravity):
            return particles.replace(time=particles.time + self.times * dt, dt=dt), carried

    rule = Controller(lambda p: (), lambda memory, p: (0.1, memory), scheme=Leap(3.0))
    for form in (rule, symmetrized(rule), rule.scaled(1.0), symmetrized(rule).scaled(1.0)):
        np.testing.assert_allclose(
            run_steps(form, GRAVITY, state_of(KEPLER), 2).particles.time, 0.6
        )


# --- rebound -------------------------------------------------------------------------------------


def ias15(table, end):
    simulation = rebound.Simulation()
    simulation.integrator = "ias15"
    for mass, x, y, vx, vy in table:
        simulation.add(m=mass, x=x, y=y, vx=vx, vy=vy)
    simulation.integrate(end)
    return np.array([[p.x, p.y] for p in simulation.particles])


@pytest.mark.parametrize(
    ("table", "end", "eta", "accuracy"),
    [
        (kepler_pair(0.5, total_mass=1.0), 6.0, 2e-3, 1e-7),
        (figure_eight(), 6.0, 2e-3, 1e-7),
        (pythagorean(), 4.0, 2e-3, 1e-7),
    ],
    ids=["kepler", "eight", "pythagorean"],
)
def test_small_steps_agree_with_ias15_and_converge_as_their_square(table, end, eta, accuracy):
    expected = ias15(table, end)

    def error(factor):
        rule = scaled(symmetrized(rules.free_fall(eta)), factor)
        rollout = run_until(rule, GRAVITY, state_of(table), Limits(time=end))
        return np.abs(rollout.particles.position - expected).max()

    coarse, fine = error(1.0), error(1 / 16)
    assert fine < accuracy
    assert np.log(coarse / fine) / np.log(16) == pytest.approx(2, abs=0.05)


class Told(Rule):
    """Counts how often it was told what the scheme carries."""

    def init(self, particles):
        return jnp.zeros((), jnp.int32)

    def told(self, memory, carried, way):
        return memory + 1

    def step_size(self, memory, particles):
        return 0.01, memory


def test_wrapped_rules_are_told_with_their_own_memory():
    pair = from_table(KEPLER, GRAVITY.acceleration)
    assert run_steps(scaled(Told(), 2.0), GRAVITY, pair, 3).memory == 3
    assert run_steps(symmetrized(Told()), GRAVITY, pair, 3).memory[1] == 3


@pytest.mark.parametrize("length", [1e-10, 1e10])
def test_hairer_and_soderlinds_steps_are_the_same_in_units_of_any_length(length):
    def steps(scale):
        table = KEPLER * [1, scale, scale, scale**-0.5, scale**-0.5]
        begin = from_table(table, GRAVITY.acceleration, jnp.float32)
        limits = Limits(3 * scale**1.5, 1000)
        return int(run_until(rules.hairer_soderlind(0.1), GRAVITY, begin, limits).steps)

    assert 20 < steps(1.0) < 1000
    assert abs(steps(length) - steps(1.0)) <= 1
