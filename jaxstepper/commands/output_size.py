"""The size of a recorded rollout, if it is known before the start."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxstepper.machine.memory import GIGABYTE, require_disk, require_memory
from jaxstepper.reporting.note import note
from jaxstepper.settings.config import Config
from jaxstepper.stepping.rollout import MOST_STEPS, Limits
from jaxstepper.stepping.rule import Fixed, Rule

# The states of a movie are in memory twice: in the pieces that were recorded, and as one array.
# Those of a .npz file are on the disk twice while the archive is put together.
COPIES = 2


def check_size(config: Config, rule: Rule, limits: Sequence[Limits]) -> None:
    """`check_recording` of rollouts with these limits; passes if their steps are unknown.

    They are if the rule chooses the steps to a given time. `config` has the shape of the bodies.

    Raises:
        UserError: the recorded states exceed the memory, or their file exceeds the free disk.
    """
    most = max(_most_rows(config, rule, each) for each in limits)
    check_recording(config, most, len(limits))


def check_recording(config: Config, steps: int, rollouts: int) -> None:
    """Says how large a recording of a gigabyte or more will be, and refuses one that cannot fit.

    Args:
        config: with the shape of the bodies.
        steps: the states that the longest rollout records.
        rollouts: how many there are.

    Raises:
        UserError: the recorded states exceed the memory, or their file exceeds the free disk.
    """
    if config.output is None and not config.movie:
        return
    # Time, dt and energy, and the position and velocity of every body.
    numbers = 3 + 2 * config.num_particles * config.dim
    size = rollouts * steps * numbers * np.dtype(config.dtype).itemsize
    what = f"a recording of {steps:,} states, {size / GIGABYTE:,.1f} GB"
    what = what if config.output is None else f"--output {config.output}: {what}"
    if config.movie or config.individual:
        require_memory(COPIES * size, what)
    if config.output is not None:
        copies = 1 if config.output.endswith(".h5") else COPIES
        require_disk(copies * size, Path(config.output), what)
    if size >= GIGABYTE:
        note(what, quiet=config.quiet)


def _most_rows(config: Config, rule: Rule, limits: Limits) -> int:
    """The number of states of a rollout that are recorded; 0 if unknown."""
    span = abs(float(limits.time) - config.start_time)
    if config.output_times is not None:
        return len(config.output_times)
    if config.output_every is not None and math.isfinite(span):
        return int(span / config.output_every) + 1
    return most_steps(rule, limits, config.start_time)


def most_steps(rule: Rule, limits: Limits, begin: float = 0.0) -> int:
    """The number of steps of a rollout that begins at this time; 0 if unknown."""
    by_time = MOST_STEPS
    if isinstance(rule, Fixed) and math.isfinite(float(limits.time)):
        by_time = math.ceil(abs((float(limits.time) - begin) / float(rule.dt)))
    steps = min(by_time, int(limits.steps))
    return steps if steps < MOST_STEPS else 0
