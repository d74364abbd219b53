"""Work and precision of step-size rules: force evaluations against energy error.

A rule is judged as a curve: it runs on every system once for each of several factors on its steps.
The runs of a rule go side by side, in device calls of bounded length.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxstepper.evaluation.problems import Problem
from jaxstepper.evaluation.run import FAILED_ABOVE, Run, run_of
from jaxstepper.machine.call_budget import in_bounded_calls
from jaxstepper.physics.diagnostics import (
    Energy,
    angular_momentum,
    angular_momentum_scale,
    barycentric,
    internal_energy,
    reference_energy,
    relative_energy_error,
)
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import from_table
from jaxstepper.stepping.rollout import (
    Limits,
    Rollout,
    advance,
    force_evaluations,
    is_running,
    start,
)
from jaxstepper.stepping.rule import Rule
from jaxstepper.stepping.scheme import name_of
from jaxstepper.stepping.status import STALLED

# Steps in one device call, whose errors the device holds.
MOST_STEPS_PER_CALL = 2048
# Up to so many bodies and runs, all factors run side by side; with more, all would wait for the
# smallest factor.
TOGETHER_UP_TO = 6
MOST_TOGETHER = 256


class _Member(NamedTuple):
    """One system on its way, and its errors so far."""

    rollout: Rollout
    energy: Energy
    spin: Float[Array, "..."]
    spin_scale: Float[Array, ""]
    worst: Float[Array, ""]
    last: Float[Array, ""]
    worst_spin: Float[Array, ""]


class _End(NamedTuple):
    """What is known of a member at its end, on the host."""

    steps: np.integer
    status: np.integer
    time: np.floating
    position: Float[np.ndarray, "N D"]
    worst: np.floating
    last: np.floating
    worst_spin: np.floating


class _Batch(NamedTuple):
    """What differs between M runs side by side."""

    factor: Float[Array, " M"]
    limits: Limits


def evaluate(
    rule: Rule,
    name: str,
    symmetrized: bool,
    problems: Sequence[Problem],
    factors: Sequence[float],
    max_steps: int,
    report: Callable[[float], None] = lambda share: None,
    enough: float = 0.0,
) -> Iterator[Run]:
    """Runs a rule on every system of problems of one kind, with every factor.

    With more than a few bodies or systems, factors run one after the other, from the largest, until
    the errors are small enough: the runs left out would take the longest.

    Args:
        rule: the rule at factor 1, made for the softening of these problems.
        name: the rule's name.
        symmetrized: whether the rule is symmetrised; only noted in the runs.
        problems: all with the same number of bodies, dimension and softening.
        factors: multiply the steps of the rule.
        max_steps: a run that needs more has failed.
        report: called after every device call with the share of the simulated time that is done.
        enough: the largest error that counts, as a median over systems, that is small enough.

    Yields:
        The runs, those of the largest factor first.
    """
    systems = [(p, i) for p in problems for i in range(len(p.tables))]
    runs = [(factor, *system) for factor in sorted(factors, reverse=True) for system in systems]
    size = len(runs) if all_together(problems, len(factors)) else len(systems)
    for begin in range(0, len(runs), size):
        chosen = runs[begin : begin + size]
        share = partial(share_of_all, report, begin / len(runs), size / len(runs))
        measured = _Measurement(rule, chosen, max_steps)
        measured.run(share)
        done = list(measured.results(name, symmetrized))
        yield from done
        if np.median([run.error for run in done]) <= enough:
            break


def all_together(problems: Sequence[Problem], num_factors: int) -> bool:
    """Whether the factors run side by side, all of them."""
    num_runs = num_factors * sum(len(problem.tables) for problem in problems)
    return problems[0].tables.shape[1] <= TOGETHER_UP_TO and num_runs <= MOST_TOGETHER


def share_of_all(report: Callable[[float], None], done: float, weight: float, share: float) -> None:
    """Reports the share of a part, which is a weight of all, after what is done."""
    report(done + weight * share)


class _Measurement:
    """Several runs side by side, from their start until the last one ends."""

    def __init__(
        self,
        rule: Rule,
        runs: list[tuple[float, Problem, int]],
        max_steps: int,
    ) -> None:
        self.rule, self.runs, self.max_steps = rule, runs, max_steps
        self.gravity = Gravity(runs[0][1].softening)
        tables = np.stack([problem.tables[system] for _, problem, system in runs])
        limits = Limits(
            jnp.array([problem.end_time for _, problem, _ in runs]),
            jnp.full(len(runs), max_steps, jnp.int32),
        )
        self.batch = _Batch(jnp.array([factor for factor, *_ in runs]), limits)
        self.members = _begin(rule, self.gravity, self.batch, jnp.asarray(tables))
        self.errors: list[np.ndarray] = []

    def run(self, report: Callable[[float], None]) -> None:
        def call(budget: int) -> tuple[int, bool]:
            self.members, errors, count, still = _advance_some(
                self.rule, self.gravity, self.batch, self.members, budget
            )
            taken, still = int(count), np.asarray(still)
            self.errors.append(np.array(np.asarray(errors)[:taken]))
            done = np.asarray(self.members.rollout.particles.time / self.batch.limits.time)
            report(float(np.mean(np.where(still, done, 1.0))))
            return taken, bool(still.any())

        in_bounded_calls(call, 1, MOST_STEPS_PER_CALL)

    def results(self, name: str, symmetrized: bool) -> Iterator[Run]:
        errors = np.concatenate(self.errors)
        member, rollout = self.members, self.members.rollout
        p = rollout.particles
        leaves = (rollout.steps, rollout.status, p.time, p.position)
        ends = [np.asarray(x) for x in (*leaves, member.worst, member.last, member.worst_spin)]
        for i, (factor, problem, system) in enumerate(self.runs):
            end = _End(*(each[i] for each in ends))
            steps = int(end.steps)
            mine = errors[:, i]
            yield run_of(
                problem,
                system,
                time=float(end.time),
                position=end.position,
                rule=name,
                scheme=name_of(self.rule.scheme),
                symmetrized=symmetrized,
                reversible=self.rule.reversible,
                factor=factor,
                steps=steps,
                force_evaluations=force_evaluations(self.rule, steps),
                max_error=float(end.worst),
                median_error=float(np.median(mine[~np.isnan(mine)])),
                final_error=float(end.last),
                angular_momentum_error=float(end.worst_spin),
                failed=self._failed(end),
            )

    def _failed(self, end: _End) -> str:
        """Why a run failed, as in `Run`."""
        if end.status == STALLED:
            return "stalled"
        if not end.worst <= FAILED_ABOVE:
            return "energy"
        return "steps" if end.steps >= self.max_steps else ""


@partial(jax.jit, static_argnames="gravity")
def _begin(rule: Rule, gravity: Gravity, batch: _Batch, tables: Float[Array, "M N C"]) -> _Member:
    def one(factor: Array, table: Array) -> _Member:
        particles = from_table(table, gravity.acceleration, table.dtype)
        zero = jnp.zeros((), table.dtype)
        return _Member(
            start(rule.scaled(factor), gravity, particles),
            reference_energy(particles, gravity),
            angular_momentum(barycentric(particles, gravity)),
            angular_momentum_scale(particles, gravity),
            zero,
            zero,
            zero,
        )

    return jax.vmap(one)(batch.factor, tables)


@jax.jit
def _advance_some(
    rule: Rule,
    gravity: Gravity,
    batch: _Batch,
    members: _Member,
    num_steps: Int[Array, ""] | int,
) -> tuple[_Member, Float[Array, "S M"], Int[Array, ""], Bool[Array, " M"]]:
    """Up to `num_steps` steps of every run; a last step is not shortened to the end time.

    A shortened step would not be reversible.

    Returns:
        The runs, a buffer that begins with their errors (NaN for a run that took no step), the
        number of steps, and which runs go on.
    """

    def step(factor: Array, limits: Limits, member: _Member) -> tuple[_Member, Array]:
        running = _goes_on(member, limits)
        rollout = advance(rule.scaled(factor), gravity, member.rollout, Limits(), running)
        error = relative_energy_error(internal_energy(rollout.particles, gravity), member.energy)
        spin = angular_momentum(barycentric(rollout.particles, gravity))
        spin_error = jnp.linalg.norm(spin - member.spin) / member.spin_scale
        new = member._replace(
            worst=jnp.maximum(member.worst, error),
            last=error,
            worst_spin=jnp.maximum(member.worst_spin, spin_error),
        )
        kept = jax.tree.map(lambda x, y: jnp.where(running, x, y), new, member)
        return kept._replace(rollout=rollout), jnp.where(running, error, jnp.nan)

    shape = (MOST_STEPS_PER_CALL, *batch.factor.shape)
    nothing = jnp.full(shape, jnp.nan, jnp.float32)

    def body(carry: tuple) -> tuple:
        count, members, errors = carry
        members, new = jax.vmap(step)(batch.factor, batch.limits, members)
        return count + 1, members, errors.at[count].set(new.astype(errors.dtype))

    def goes_on(carry: tuple) -> Bool[Array, ""]:
        count, members, _ = carry
        return (count < num_steps) & jnp.any(jax.vmap(_goes_on)(members, batch.limits))

    count, members, errors = lax.while_loop(goes_on, body, (jnp.int32(0), members, nothing))
    return members, errors, count, jax.vmap(_goes_on)(members, batch.limits)


def _goes_on(member: _Member, limits: Limits) -> Bool[Array, ""]:
    return is_running(member.rollout, limits) & (member.worst <= FAILED_ABOVE)
