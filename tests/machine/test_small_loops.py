"""Rollouts of a few bodies run as one function on a CPU."""

import jax
import pytest

import jaxstepper as js
from jaxstepper.machine.small_loops import BYTES, LIMIT, OPTIONS, compile_whole
from jaxstepper.stepping.rule import Rule

# XLA's name for a loop that it compiles whole.
WHOLE = "xla_cpu_small_call"


@pytest.mark.parametrize(
    "rule", [js.fixed(0.01), js.symmetrized(js.free_fall(0.02)), js.load_rule("kepler")]
)
def test_a_loop_over_steps_of_a_pair_is_one_function(rule: Rule) -> None:
    gravity = js.Gravity()
    pair = js.from_table(js.kepler_pair(0.5), gravity.acceleration)

    def end(time: jax.Array) -> jax.Array:
        return js.run_until(rule, gravity, pair, js.Limits(time=time)).particles.position

    assert WHOLE in jax.jit(end).lower(1.0).compile().as_text()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, f"--{OPTIONS}={LIMIT}={BYTES}"),
        ({"XLA_FLAGS": "--xla_a=1"}, f"--xla_a=1 --{OPTIONS}={LIMIT}={BYTES}"),
        ({"XLA_FLAGS": f"--{OPTIONS}={LIMIT}=1024"}, f"--{OPTIONS}={LIMIT}=1024"),
    ],
)
def test_flags_of_the_user_come_first(before: dict[str, str], after: str) -> None:
    environment = dict(before)
    compile_whole(environment)
    assert environment["XLA_FLAGS"] == after
