"""What `import jaxstepper` gives: its names, and that they fit together."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxstepper as js
from jaxstepper.errors import UserError
from jaxstepper.physics.gravity import tidal_field
from jaxstepper.physics.initial_conditions import random_table
from jaxstepper.runs.folders import SHIPPED

RUNS = str(SHIPPED)
GRAVITY = js.Gravity()
PAIR = js.from_table(js.kepler_pair(0.6, mass_ratio=0.5, phase=2.0), GRAVITY.acceleration)
ONE = js.Limits(time=1.0)


def half_a_free_fall(particles: js.Particles) -> jax.Array:
    x = particles.position
    return 0.5 * jnp.sqrt(jnp.sum((x[1] - x[0]) ** 2) ** 1.5 / jnp.sum(particles.mass))


# --- names -----------------------------------------------------------------------------------


def test_every_name_is_there_and_says_what_it_is() -> None:
    assert set(js.__all__) <= set(dir(js))
    for name in js.__all__:
        assert getattr(js, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'frog'"):
        js.frog  # noqa: B018


def test_type_checkers_see_the_names_where_they_come_from() -> None:
    tree = ast.parse(Path(js.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    shown = {
        node.module.removeprefix("jaxstepper."): tuple(alias.name for alias in node.names)
        for node in imports
        if node.module and node.module.startswith("jaxstepper.")
    }
    assert shown == js._HOMES
    assert sorted(name for names in shown.values() for name in names) == js.__all__


@pytest.mark.processes
def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, jaxstepper; print(*{'jax', 'numpy', 'flax'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


# --- bodies ----------------------------------------------------------------------------------


def test_a_table_of_whole_numbers_is_a_state_in_the_default_precision() -> None:
    particles = js.from_table([[1, 0, 0], [2, 3, 1]], GRAVITY.acceleration)
    assert {leaf.dtype for leaf in jax.tree.leaves(particles)} == {jnp.dtype("float64")}
    np.testing.assert_allclose(particles.acceleration, [[2 / 9], [-1 / 9]], rtol=1e-15)


@pytest.mark.parametrize("table", [[[1.0, 2.0]], [[1.0]]])
def test_a_table_of_another_shape_is_refused(table: list) -> None:
    with pytest.raises(UserError, match=r"must be \[N, 1 \+ 2 D\]"):
        js.from_table(table, GRAVITY.acceleration)


# --- external fields -------------------------------------------------------------------------


def test_a_field_is_minus_the_gradient_of_its_potential() -> None:
    tide = tidal_field(7.0, (3.0, -4.0, 1.0))
    field = js.ExternalField.from_potential(tide.potential)
    x = jnp.asarray(random_table(0, 5, 3, 1.0, 0.5, 1.0)[:, 1:4])
    zero = jnp.zeros(())
    np.testing.assert_allclose(field.acceleration(x, zero), tide.acceleration(x, zero), rtol=1e-12)
    assert js.Gravity(external=field) == js.Gravity(
        external=js.ExternalField.from_potential(tide.potential)
    )


def test_a_single_body_follows_a_field_that_changes_in_time() -> None:
    """Phi = -x cos t: x = 1 + 2 t + (1 - cos t), and the energy grows by what the field does."""
    gravity = js.Gravity(
        external=js.ExternalField.from_potential(lambda x, t: -x[:, 0] * jnp.cos(t))
    )
    start = js.from_table([[3.0, 1.0, 2.0]], gravity.acceleration)
    end, path = js.record(js.fixed(1e-3), gravity, start, ONE)
    t = path.time
    np.testing.assert_allclose(path.position[:, 0, 0], 2 + 2 * t - np.cos(t), atol=1e-6)
    energy = 3 * (0.5 * (2 + np.sin(t)) ** 2 - (2 + 2 * t - np.cos(t)) * np.cos(t))
    np.testing.assert_allclose(path.energy, energy, atol=1e-5)
    assert float(end.particles.time) == pytest.approx(1.0, rel=1e-12)


# --- rules -----------------------------------------------------------------------------------


def test_a_function_of_the_state_is_a_rule() -> None:
    end = js.run_steps(js.memoryless(half_a_free_fall), GRAVITY, PAIR, 9).particles
    same = js.run_steps(js.free_fall(0.5), GRAVITY, PAIR, 9).particles
    for mine, theirs in zip(jax.tree.leaves(end), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12)


def test_a_plain_number_is_a_step_whatever_turns_the_rule_into_another() -> None:
    plain = js.memoryless(lambda particles: 0.25)
    bare = js.Controller(lambda particles: (), lambda memory, particles: (0.25, memory))
    for rule in (plain, bare):
        for other in (rule, js.symmetrized(rule), js.scaled(js.scaled(rule, 2.0), 0.5)):
            assert int(js.run_until(other, GRAVITY, PAIR, ONE).steps) == 4


def test_a_trained_network_is_loaded_with_its_tolerance() -> None:
    steps = [
        int(js.run_until(js.load_controller("kepler", g, tol, RUNS), g, PAIR, ONE).steps)
        for g in (GRAVITY, js.Gravity(softening=1e-6))
        for tol in (1e-3, 1e-5)
    ]
    assert steps[0] == steps[2]
    # A tolerance a hundred times smaller takes ten times the steps.
    assert steps[1] == pytest.approx(10 * steps[0], rel=0.1)


def test_a_network_is_refused_with_a_softening_it_does_not_know() -> None:
    with pytest.raises(UserError, match=r"gravity.softening 0.1: .* was trained with 0.0"):
        js.load_controller("kepler_torch", js.Gravity(softening=0.1), checkpoint_dir=RUNS)


# --- derivatives -----------------------------------------------------------------------------


@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev])
@pytest.mark.parametrize(
    "make",
    [
        lambda: js.fixed(0.03),
        lambda: js.symmetrized(js.load_controller("kepler", GRAVITY, checkpoint_dir=RUNS)),
    ],
    ids=["fixed", "learned"],
)
def test_the_final_state_is_differentiable_by_the_initial_one(
    make: Callable[[], js.Rule], derivative: Callable
) -> None:
    rule, h = make(), 1e-5

    def final(velocity: jax.Array) -> jax.Array:
        end = js.run_steps(rule, GRAVITY, PAIR.replace(velocity=velocity), 50).particles
        return jnp.append(end.position.ravel(), end.time)

    exact = derivative(final)(PAIR.velocity).reshape(5, 4)
    basis = np.eye(4).reshape(4, 2, 2)
    differences = [(final(PAIR.velocity + h * e) - final(PAIR.velocity - h * e)) for e in basis]
    differences = np.stack(differences, axis=1) / (2 * h)
    np.testing.assert_allclose(exact, differences, atol=1e-6 * np.abs(differences).max())
