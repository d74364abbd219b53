"""Programs for a CPU: a few bodies step in one function, and vectors are as wide as can be."""

import jax
import pytest

import jaxstepper as js
from jaxstepper.machine import cpu_flags
from jaxstepper.machine.cpu_flags import BITS, BYTES, LIMIT, OPTIONS, WIDTH, set_flags
from jaxstepper.stepping.rule import Rule

# XLA's name for a loop that it compiles whole.
WHOLE = "xla_cpu_small_call"
LOOPS, VECTORS = f"--{OPTIONS}={LIMIT}={BYTES}", f"--{WIDTH}={BITS}"


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
        ({}, f"{LOOPS} {VECTORS}"),
        ({"XLA_FLAGS": "--xla_a=1"}, f"--xla_a=1 {LOOPS} {VECTORS}"),
        ({"XLA_FLAGS": f"--{OPTIONS}={LIMIT}=1024"}, f"--{OPTIONS}={LIMIT}=1024 {VECTORS}"),
        ({"XLA_FLAGS": f"--{WIDTH}=256"}, f"--{WIDTH}=256 {LOOPS}"),
    ],
)
def test_flags_of_the_user_come_first(before: dict[str, str], after: str) -> None:
    environment = dict(before)
    set_flags(environment)
    assert environment["XLA_FLAGS"] == after


@pytest.mark.parametrize(("installed", "known"), [("0.11.2", True), ("0.12.0", False)])
def test_a_version_that_was_not_tried_goes_without_a_flag_that_it_may_not_know(
    installed: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_flags, "jaxlib_version", installed)
    environment: dict[str, str] = {}
    set_flags(environment)
    assert (WIDTH in environment["XLA_FLAGS"]) == known
