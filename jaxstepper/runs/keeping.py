"""Rollouts of a program whose states go to a file as they come, and that go on from one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxstepper.errors import require
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.physics.units import Units
from jaxstepper.runs.recordings import (
    Recording,
    check_going_on,
    going_from,
    open_writer,
    read_recording,
)
from jaxstepper.stepping.output import Going, Times, begin, chosen_times, record_on
from jaxstepper.stepping.rollout import Limits, Rollout
from jaxstepper.stepping.rule import Rule
from jaxstepper.stepping.scheme import name_of

Report = Callable[[float], None]


def record_to(
    path: str | Path,
    rule: Rule,
    gravity: Gravity,
    particles: Particles,
    limits: Limits,
    *,
    every: float | None = None,
    times: Sequence[float] | None = None,
    names: Sequence[str] = (),
    units: Units | None = None,
    report: Report = lambda share: None,
) -> Rollout:
    """A rollout whose states are written as they come, so that memory does not grow with it.

    An exception on the way, as that of Ctrl-C, leaves a file that can be read and gone on with.

    Args:
        path: a .npz file, or .h5 with h5py.
        rule: the step-size rule.
        gravity: what moves the bodies.
        particles: the first state.
        limits: where the rollout ends; with a time before that of the first state, backwards.
        every: the time between states; by default every step is written.
        times: those of the states, in the place of `every`. They do not change the rollout.
        names: of the bodies, for the file.
        units: of the bodies, for the file; `gravity` has its own G.
        report: called after every device call with the share of the rollout that is done.

    Raises:
        UserError: the rule cannot step these bodies, or the file cannot be written.
    """
    going = begin(rule, gravity, particles, limits)
    first = float(particles.time)
    chosen = chosen_times(every, times, first, float(limits.time))
    about = _about(rule, gravity, units)
    return _write(path, rule, gravity, going, limits, chosen, names, about, report)


def go_on(
    source: str | Path,
    rule: Rule,
    gravity: Gravity,
    limits: Limits,
    path: str | Path | None = None,
    *,
    every: float | None = None,
    times: Sequence[float] | None = None,
    report: Report = lambda share: None,
) -> Rollout:
    """The rollout that a file records, gone on with as if it had not ended.

    With the same rule, gravity and output it reaches the states, to the bit, of a rollout that
    never ended. The last step of the file is taken anew, since it may have been cut short.

    Args:
        source: the file of `record_to`, or of `simulate --output`.
        rule: the rule that it was recorded with.
        gravity: likewise.
        limits: where it ends; steps count from its first start.
        path: the file to write, from the last state of `source` on; by default none.
        every: the time between states, counted from the first start; else every step.
        times: those of the states, in the place of `every`.
        report: called after every device call with the share of the rollout that is done.

    Raises:
        UserError: the file cannot be read, holds several rollouts, or another rule's, is `path`
            too, or has gone beyond the limits.
    """
    found = read_recording(source)
    where = str(source)
    can = len(found.going) == 1 and bool(found.going[0])
    require(can, f"{where}: does not hold one rollout that can be gone on with")
    like = begin(rule, gravity, _first(found), limits)
    going = going_from(found.going[0], like, where)
    check_going_on(found, [limits], source, path)
    chosen: Times | None = iter(())
    if path is not None:
        first, after = float(going.first.time), found.after(0)
        chosen = chosen_times(every, times, first, float(limits.time), after)
    return _write(path, rule, gravity, going, limits, chosen, found.names, found.about, report)


def _write(
    path: str | Path | None,
    rule: Rule,
    gravity: Gravity,
    going: Going,
    limits: Limits,
    times: Times | None,
    names: Sequence[str],
    about: dict[str, Any],
    report: Report,
) -> Rollout:
    if path is None:
        return record_on(rule, gravity, going, limits, lambda *_: None, times, report).rollout
    masses = np.asarray(going.first.mass)[None]
    with open_writer(Path(path), masses, names, about) as writer:
        end = record_on(
            rule, gravity, going, limits, lambda *rows: writer.rows(0, *rows), times, report
        )
    return end.rollout


def _first(found: Recording) -> Particles:
    leaves = found.going[0]
    fields = Particles.__dataclass_fields__
    return Particles(**{name: jnp.asarray(leaves[f"first/{name}"]) for name in fields})


def _about(rule: Rule, gravity: Gravity, units: Units | None) -> dict[str, Any]:
    from jaxstepper import __version__

    said = {"rule": type(rule).__name__, "scheme": name_of(rule.scheme), "version": __version__}
    made = {"G": gravity.G, "softening": gravity.softening}
    return said | made | ({} if units is None else {"units": units.names})
