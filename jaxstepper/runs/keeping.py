"""Rollouts of a program whose states go to a file as they come, and that go on from one."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxstepper.errors import UserError, require
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
from jaxstepper.stepping.criteria import Criterion
from jaxstepper.stepping.individual import longest_step
from jaxstepper.stepping.individual_rollouts import (
    begin_individually,
    gone_on,
    record_individually,
)
from jaxstepper.stepping.individual_state import Individual
from jaxstepper.stepping.output import Going, Times, begin, chosen_times, record_on
from jaxstepper.stepping.rollout import Limits, Rollout
from jaxstepper.stepping.rule import OnScheme, Rule
from jaxstepper.stepping.scheme import name_of

Report = Callable[[float], None]
# What files of `simulate --output` say, too.
OF_ANY_FILE = ("scheme", "G", "softening")


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
    about = _about(rule, name_of(rule.scheme), gravity, units)
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
        UserError: the file cannot be read, holds several rollouts, or one of another rule, eta or
            gravity, is `path` too, or has gone beyond the limits.
    """
    found = _read_one(source)
    like = begin(rule, gravity, _first(found), limits)
    going = going_from(found.going[0], like, str(source))
    _check_made(found, source, _made_with(rule, name_of(rule.scheme), gravity))
    check_going_on(found, [limits], source, path)
    chosen = _chosen_on(found, going, path, every, times, float(limits.time))
    return _write(path, rule, gravity, going, limits, chosen, found.names, found.about, report)


def record_individual(
    path: str | Path,
    criterion: Criterion,
    gravity: Gravity,
    particles: Particles,
    end_time: float,
    longest: float | None = None,
    *,
    every: float | None = None,
    times: Sequence[float] | None = None,
    names: Sequence[str] = (),
    units: Units | None = None,
    report: Report = lambda share: None,
) -> Individual:
    """`record_to` with individual steps; by default, the states where all bodies meet are written.

    Args:
        path: a .npz file, or .h5 with h5py.
        criterion: chooses the steps of each body.
        gravity: what moves the bodies.
        particles: the first state.
        end_time: where the rollout ends; before the time of the first state, it runs backwards.
        longest: the longest step of any body, after which all of them meet; by default an eighth of
            the unit of time in which the sum of kinetic and potential energy, in size, is 3/4, or a
            sixteenth of the rollout if that is shorter.
        every: the time between states.
        times: those of the states, in the place of `every`. They do not change the rollout.
        names: of the bodies, for the file.
        units: of the bodies, for the file; `gravity` has its own G.
        report: called after every device call with the share of the rollout that is done.

    Raises:
        UserError: a time is before the first state, or the file cannot be written.
    """
    longest = longest or longest_step(gravity, particles, end_time)
    (going,) = begin_individually(criterion, gravity, [particles], [end_time], [longest])
    chosen = chosen_times(every, times, float(particles.time), end_time)
    about = _about(criterion, "hermite", gravity, units)
    return _write_individual(path, criterion, gravity, going, chosen, names, about, report)


def go_on_individual(
    source: str | Path,
    criterion: Criterion,
    gravity: Gravity,
    end_time: float,
    path: str | Path | None = None,
    *,
    every: float | None = None,
    times: Sequence[float] | None = None,
    report: Report = lambda share: None,
) -> Individual:
    """`go_on` with individual steps, none of which is longer than the longest one of the file.

    Args:
        source: the file of `record_individual`, or of `simulate --individual --output`.
        criterion: the criterion that it was recorded with.
        gravity: likewise.
        end_time: where it ends.
        path: the file to write; by default none.
        every: the time between states, counted from the first start.
        times: those of the states, in the place of `every`.
        report: called after every device call with the share of the rollout that is done.

    Raises:
        UserError: the file cannot be read, holds several rollouts, one with shared steps, or one of
            another criterion, eta or gravity, is `path` too, or has gone beyond the end.
    """
    found = _read_one(source)
    (like,) = begin_individually(criterion, gravity, [_first(found)], [end_time], [1.0])
    going = going_from(found.going[0], like, str(source))
    _check_made(found, source, _made_with(criterion, "hermite", gravity))
    check_going_on(found, [Limits(time=end_time)], source, path)
    chosen = _chosen_on(found, going, path, every, times, end_time)
    return _write_individual(
        path,
        criterion,
        gravity,
        gone_on(going, end_time),
        chosen,
        found.names,
        found.about,
        report,
    )


def _read_one(source: str | Path) -> Recording:
    found = read_recording(source)
    can = len(found.going) == 1 and bool(found.going[0])
    require(can, f"{source}: does not hold one rollout that can be gone on with")
    return found


def _chosen_on(
    found: Recording,
    going: Going,
    path: str | Path | None,
    every: float | None,
    times: Sequence[float] | None,
    end: float,
) -> Times | None:
    if path is None:
        return iter(())
    return chosen_times(every, times, float(going.first.time), end, found.after(0))


def _write_individual(
    path: str | Path | None,
    criterion: Criterion,
    gravity: Gravity,
    going: Going,
    times: Times | None,
    names: Sequence[str],
    about: dict[str, Any],
    report: Report,
) -> Individual:
    if path is None:
        (end,) = record_individually(None, criterion, gravity, [going], report=report)
        return end.rollout
    masses, chosen = np.asarray(going.first.mass)[None], None if times is None else [times]
    with open_writer(Path(path), masses, names, about) as writer:
        (end,) = record_individually(None, criterion, gravity, [going], writer.rows, chosen, report)
    return end.rollout


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


def _about(
    rule: Rule | Criterion, scheme: str, gravity: Gravity, units: Units | None
) -> dict[str, Any]:
    from jaxstepper import __version__

    said: dict[str, Any] = {"rule": type(rule).__name__, "scheme": scheme, "version": __version__}
    made = {"G": gravity.G, "softening": gravity.softening}
    said |= {"made_with": _made_with(rule, scheme, gravity)}
    return said | made | ({} if units is None else {"units": units.names})


def _made_with(rule: Rule | Criterion, scheme: str, gravity: Gravity) -> dict[str, Any]:
    """What a rollout is made with, in plain values: kinds, numbers, and a digest of weights."""
    kinds: list[str] = []
    inner: Any = rule
    while isinstance(inner, Rule | Criterion):
        kinds += [] if isinstance(inner, OnScheme) else [type(inner).__name__]
        inner = getattr(inner, "rule", None)
    made: dict[str, Any] = {"rule": " of ".join(kinds), "scheme": scheme}
    made |= {"G": gravity.G, "softening": gravity.softening}
    weights = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(rule):
        if np.ndim(leaf) == 0:
            name = jax.tree_util.keystr(path[-1:], simple=True)
            made[f"{name} of the rule" if name in made else name] = float(leaf)
        else:
            weights.update(np.asarray(leaf).tobytes())
    return made | {"weights": weights.hexdigest()[:16]}


def _check_made(found: Recording, source: str | Path, mine: dict[str, Any]) -> None:
    """Refuses to go on with another rule, eta or gravity, as far as the file knows its own."""
    known = {"G": 1.0, **found.about}
    theirs = found.about.get("made_with", {name: known.get(name) for name in OF_ANY_FILE})
    for name, value in theirs.items():
        if value is not None and value != mine.get(name):
            raise UserError(
                f"{source}: was recorded with {name} {value}, not {mine.get(name)}, and cannot go "
                "on with that; start anew from its end (--ic-path)"
            )
