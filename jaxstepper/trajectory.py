"""A recorded rollout in a program or a notebook: its pictures and tables."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxstepper.errors import needing, require
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.pictures.rollout_picture import rollout_figure
from jaxstepper.stepping import recording
from jaxstepper.stepping.output import record_at
from jaxstepper.stepping.rollout import Limits, Rollout
from jaxstepper.stepping.rule import Rule

AXES = "xyz"


class Trajectory(recording.Trajectory):
    """A recorded rollout of S steps, in numpy.

    Attributes:
        time: `[S + 1]`.
        dt: `[S]`.
        position: `[S + 1, N, D]`.
        velocity: `[S + 1, N, D]`.
        energy: `[S + 1]`.
    """

    def __repr__(self) -> str:
        """One line: how many states, of how many bodies, over which time."""
        states, bodies, dim = self.position.shape
        when = f", time {self.time[0]:g} to {self.time[-1]:g}" if states else ""
        return f"Trajectory({states} states of {bodies} bodies in {dim}D{when})"

    def plot(self, title: str = "") -> Any:
        """A matplotlib figure of the orbits, dt along them and along time, and the energy error.

        Raises:
            UserError: matplotlib is missing.
        """
        return rollout_figure(self._asdict(), title)

    def to_xarray(self) -> Any:
        """An xarray dataset with the dimensions time, body and axis.

        `dt` is the step that begins at a time; at the last time it is NaN.

        Raises:
            UserError: xarray is missing.
        """
        with needing("to_xarray needs xarray: pip install xarray"):
            import xarray
        vectors = ("time", "body", "axis")
        variables = {
            "position": (vectors, self.position),
            "velocity": (vectors, self.velocity),
            "energy": ("time", self.energy),
            "dt": ("time", [*self.dt, float("nan")]),
        }
        _, bodies, dim = self.position.shape
        return xarray.Dataset(
            variables, {"time": self.time, "body": range(bodies), "axis": _axes(dim)}
        )

    def to_pandas(self) -> Any:
        """A pandas table with a row for each body at each time: time, body, x, ..., vx, ....

        Raises:
            UserError: pandas is missing.
        """
        with needing("to_pandas needs pandas: pip install pandas"):
            import pandas
        times, bodies, dim = self.position.shape
        index = pandas.MultiIndex.from_product([self.time, range(bodies)], names=["time", "body"])
        columns = {
            f"{prefix}{axis}": values[:, :, k].reshape(times * bodies)
            for prefix, values in (("", self.position), ("v", self.velocity))
            for k, axis in enumerate(_axes(dim))
        }
        return pandas.DataFrame(columns, index).reset_index()


def record(
    rule: Rule,
    gravity: Gravity,
    particles: Particles,
    limits: Limits,
    report: Callable[[float], None] = lambda share: None,
    *,
    times: Sequence[float] | None = None,
) -> tuple[Rollout, Trajectory]:
    """A rollout up to the limits, with every state on the way, or with those at given times.

    It runs in device calls of bounded length and memory; where they end does not change the result,
    and neither do the times. `dt` is the step that led to a state, or led past its time.

    Args:
        rule: the step-size rule.
        gravity: what moves the bodies.
        particles: the first state.
        limits: where the rollout ends.
        report: called after every device call with the share of the rollout that is done.
        times: those of the states, in any order, and none before the first; those beyond the end
            are left out.

    Raises:
        UserError: the rule cannot step these bodies, they are a batch, a time is before the first
            state, or this is inside of a transformation such as `vmap`.
    """
    inside = any(isinstance(each, jax.core.Tracer) for each in jax.tree.leaves((particles, limits)))
    message = "record keeps states on the host, which vmap, jit and grad cannot see; "
    require(not inside, f"{message}call it once for each system, or run_until inside of them")
    require(
        particles.mass.ndim == 1,
        f"record takes one system, not a batch of {len(particles.mass)}; call it once for each, "
        "or jax.vmap(run_until) for their ends",
    )
    if times is None:
        rollout, states = recording.record(rule, gravity, particles, limits, report)
    else:
        rollout, states = record_at(rule, gravity, particles, limits, times, report)
    return rollout, Trajectory(*states)


def _axes(dim: int) -> Sequence[str]:
    return list(AXES[:dim]) if dim <= len(AXES) else [f"x{k}" for k in range(dim)]
