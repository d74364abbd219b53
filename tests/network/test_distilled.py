"""The network of pairs as a ratio of polynomials: like steps, as reversible, on every scheme."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commandline import assert_refused, call

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.evaluation.measure import evaluate
from jaxstepper.evaluation.problems import problem
from jaxstepper.network.distilled import distilled

GRAVITY = js.Gravity()
# Pairs in three dimensions, and bodies that are far from them.
AT_REST = [[1, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]]
CIRCLE = js.kepler_pair(0.0, dim=3)
PASSAGE = [[1, 0, 0, 0, 0, 0, 0], [1, 0.1, 0.1, 0, 0, 30, 0]]
FAR = [[1, 90, 0, 0, 0, 0.1, 0], [1, 0, 120, 0, 0.1, 0, 0], [2, 0, 0, -99, 0, -0.1, 0]]


@pytest.fixture(scope="module")
def rules():
    """The trained rule, and what it is distilled to."""
    rule = js.load_rule("kepler", GRAVITY, tolerance=1e-3)
    return rule, distilled(rule)


@pytest.fixture(scope="module")
def pairs():
    """Pairs of eccentricity 0.15 to 0.98, all around their orbits, at several scales."""
    rng = np.random.default_rng(0)
    draws = rng.uniform((0.15, 0.0, -3.0), (0.98, 6.28, 3.0), (300, 3)).tolist()
    tables = [js.kepler_pair(e, 10.0**size, phase=phase) for e, phase, size in draws]
    return js.from_table(np.stack(tables), GRAVITY.acceleration)


def state(tables):
    return js.from_table(np.asarray(tables, float), GRAVITY.acceleration)


def steps_of(rule, particles):
    return jax.jit(jax.vmap(lambda p: rule.step_size((), p)[0]))(particles)


def test_steps_are_those_of_the_network(rules, pairs):
    network, ratio = (steps_of(rule, pairs) for rule in rules)
    off = jnp.abs(ratio / network - 1)
    assert jnp.median(off) < 0.08
    assert jnp.max(off) < 0.3


def test_it_keeps_to_the_network_far_from_orbits(rules):
    """At rest and on a circle, steps are within a factor of two; in fast passages never longer."""
    tables = [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]],
        js.kepler_pair(0.0),
        [[1, 0, 0, 0, 0], [1, 1, 1, 0, 30]],
        [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0.02]],
    ]
    particles = js.from_table(np.array(tables, float), GRAVITY.acceleration)
    network, ratio = (steps_of(rule, particles) for rule in rules)
    at_rest, circle, passage, slow = np.log2(ratio / network)
    assert max(abs(at_rest), abs(circle), abs(slow)) < 1
    assert -6 < passage < 1


def test_it_comes_back_and_conserves_as_the_network_does(rules):
    pair = js.from_table(js.kepler_pair(0.8, total_mass=1, phase=jnp.pi), GRAVITY.acceleration)
    ends = []
    for rule in rules:
        end, path = js.record(js.symmetrized(rule), GRAVITY, pair, js.Limits(time=20 * jnp.pi))
        ends.append((int(end.steps), abs(path.energy / path.energy[0] - 1).max()))
    (steps, error), (steps_of_ratio, error_of_ratio) = ends
    assert steps_of_ratio == pytest.approx(steps, rel=0.02)
    assert error_of_ratio == pytest.approx(error, rel=0.02)


def test_it_is_for_its_tolerance_and_scheme(rules, pairs):
    chin = distilled(js.load_rule("kepler_chin", GRAVITY, tolerance=1e-4))
    assert isinstance(chin.scheme, js.Chin)
    scaled = js.scaled(rules[1], 0.5)
    np.testing.assert_allclose(steps_of(scaled, pairs), 0.5 * steps_of(rules[1], pairs), rtol=1e-12)


def test_no_weight_is_multiplied(rules, pairs):
    one = jax.tree.map(lambda x: x[0], pairs)
    for rule, multiplies in zip(rules, (True, False), strict=True):
        program = str(jax.make_jaxpr(lambda p, rule=rule: rule.step_size((), p)[0])(one))
        assert ("dot_general" in program, "tanh" in program) == (multiplies, multiplies)


def test_what_cannot_be_distilled_is_refused():
    with pytest.raises(UserError, match="cannot be distilled"):
        distilled(js.free_fall(0.01))
    refused = call("simulate -e 0.5 --distill --controller free-fall")
    assert_refused(refused, "--distill: is for a trained network, not for free-fall")


@pytest.fixture(scope="module")
def of_encounters():
    """The trained rule of encounters, and the polynomial."""
    rule = js.load_rule("plummer", js.Gravity(0.01), tolerance=1e-3)
    return rule, distilled(rule)


def test_encounters_become_a_polynomial_that_takes_the_steps_of_the_network(of_encounters):
    """In spheres of other sizes than those it was fitted in, plain and symmetrised."""
    rule, polynomial = of_encounters
    for bodies in (24, 100):
        spheres = np.stack([js.plummer(seed, bodies) for seed in range(900, 940)])
        off = jnp.abs(
            np.divide(*(steps_of(each, state(spheres)) for each in (polynomial, rule))) - 1
        )
        assert jnp.median(off) < 0.02
        assert jnp.max(off) < 0.2
    np.testing.assert_allclose(
        steps_of(js.scaled(polynomial, 0.5), state(spheres)),
        0.5 * steps_of(polynomial, state(spheres)),
        rtol=1e-12,
    )
    one = state(spheres[0])
    assert "tanh" not in str(jax.make_jaxpr(lambda p: polynomial.step_size((), p)[0])(one))


def test_a_polynomial_keeps_its_bounds_far_from_what_it_was_fitted_to(of_encounters):
    """A pair at rest, a circle and a fast passage among far bodies, softened by any amount."""
    rule, polynomial = of_encounters
    tables = np.stack([np.concatenate([pair, FAR]) for pair in (AT_REST, CIRCLE, PASSAGE)])
    off = jnp.log(steps_of(polynomial, state(tables)) / steps_of(rule, state(tables)))
    assert jnp.max(jnp.abs(off)) < np.log(3)


@pytest.mark.parametrize("name, softening", [("kepler", 0.0), ("plummer", 0.01)])
def test_single_precision_finds_the_same_polynomials(name, softening):
    def coefficients():
        rule = distilled(js.load_rule(name, js.Gravity(softening)))
        return rule.ratio if name == "kepler" else rule.coefficients

    double = coefficients()
    with jax.enable_x64(False):
        single = coefficients()
    np.testing.assert_allclose(single, double, rtol=0.02, atol=0.02)


def test_simulate_and_evaluate_take_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = "simulate -e 0.5 --Nperiod 2 --model-path kepler --symmetrize"
    plain, ratio = call(options).reports()[0], call(options, "--distill").reports()[0]
    assert ratio["force_evaluations"] == pytest.approx(plain["force_evaluations"], rel=0.05)
    assert ratio["max_energy_error"] != plain["max_energy_error"]
    done = call(
        "evaluate --problems kepler-0.5 --orbits 2 --rules huayno --num-factors 2 --model kepler "
        "--distill --no-time --quiet"
    )
    assert done.code == 0
    assert "learned:kepler:distilled, symmetrized" in done.out


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("kepler_chin", 1e-4), ("kepler_bm4", 1e-4), ("kepler_bm4", 1e-5), ("kepler_bm4", 1e-6)],
)
def test_on_fourth_order_it_needs_no_more_work_than_the_network(name, tolerance):
    """At an error of about the tolerance, in the mean of eccentricities."""
    pairs = [problem(f"kepler-{e}", orbits=10) for e in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)]

    def log_work(rule):
        runs = evaluate(js.symmetrized(rule), "", True, pairs, [1.0], 10_000)
        return np.array([np.log(run.steps) + np.log(run.max_error) / 4 for run in runs])

    network = js.load_rule(name, GRAVITY, tolerance=tolerance)
    more = log_work(distilled(network)) - log_work(network)
    assert np.mean(more) < np.log(1.03)
