"""The size of a recorded rollout, if it is known before the start."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxstepper.machine.memory import GIGABYTE, require_disk, require_memory
from jaxstepper.reporting.note import note
from jaxstepper.settings.config import Config
from jaxstepper.stepping.rollout import MOST_STEPS, Limits
from jaxstepper.stepping.rule import Fixed, OnScheme, Rule

# The states of a movie are in memory twice: in the pieces that were recorded, and as one array.
# Those of a .npz file are on the disk twice while the archive is put together.
COPIES = 2


def check_size(config: Config, rule: Rule, limits: Sequence[Limits]) -> None:
    """`check_recording` of rollouts of a rule, whose steps to a given time may be unknown."""
    most = [most_steps(rule, each, config.start_time) for each in limits]
    check_recording(config, limits, most)


def check_recording(config: Config, limits: Sequence[Limits], most: Sequence[int]) -> None:
    """Says how large a recording of a gigabyte or more will be, and refuses one that cannot fit.

    Args:
        config: with the shape of the bodies.
        limits: of each rollout.
        most: how many states each records where all are; 0 if unknown.

    Raises:
        UserError: the recorded states exceed the memory, or their file exceeds the free disk.
    """
    if config.output is None and not config.movie:
        return
    steps = max(_most_rows(config, *each) for each in zip(limits, most, strict=True))
    # Time, dt and energy, and the position and velocity of every body.
    numbers = 3 + 2 * config.num_particles * config.dim
    size = len(limits) * steps * numbers * np.dtype(config.dtype).itemsize
    what = f"a recording of {steps:,} states, {size / GIGABYTE:,.1f} GB"
    what = what if config.output is None else f"--output {config.output}: {what}"
    if config.movie:
        require_memory(COPIES * size, what)
    if config.output is not None:
        copies = 1 if config.output.endswith(".h5") else COPIES
        require_disk(copies * size, Path(config.output), what)
    if size >= GIGABYTE:
        note(what, quiet=config.quiet)


def _most_rows(config: Config, limits: Limits, most: int) -> int:
    """The number of states of a rollout that are recorded; 0 if unknown."""
    span = abs(float(limits.time) - config.start_time)
    if config.output_times is not None:
        return len(config.output_times)
    if config.output_every is not None and math.isfinite(span):
        return int(span / config.output_every) + 1
    return most


def constant_dt(rule: Rule) -> float | None:
    """The dt of a rule whose steps are all equal, on any scheme; None of others."""
    while isinstance(rule, OnScheme):
        rule = rule.rule
    return float(rule.dt) if isinstance(rule, Fixed) else None


def most_steps(rule: Rule, limits: Limits, begin: float = 0.0) -> int:
    """The number of steps of a rollout that begins at this time; 0 if unknown."""
    by_time, dt = MOST_STEPS, constant_dt(rule)
    if dt is not None and math.isfinite(float(limits.time)):
        by_time = math.ceil(abs((float(limits.time) - begin) / dt))
    steps = min(by_time, int(limits.steps))
    return steps if steps < MOST_STEPS else 0
