"""Rows of the benchmark, and how times are taken for them."""

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NO_NUMBER = float("nan")
# Before each run on a CPU: the threads of the work before it may be waiting for more of it, and
# busily so. Not on a GPU, where the first milliseconds after a pause are several times slower.
SETTLING = 0.2


class Row(NamedTuple):
    """One figure beside its reference.

    Attributes:
        ratio: how many times better than the reference.
        goal: the ratio that is asked for, or None.
        compile_time: seconds the first call took longer than the best; NaN where nothing compiles.
        error: why there are no numbers; "" if there are.
    """

    name: str
    value: float
    unit: str
    reference: str
    reference_value: float
    ratio: float
    goal: float | None = None
    compile_time: float = NO_NUMBER
    error: str = ""


class Timing(NamedTuple):
    """Seconds of the fastest run, and those that the first took longer."""

    best: float
    compile_time: float


def best_times(repeats: int, *works: Callable[[], object]) -> list[Timing]:
    """Times of some works, which take turns so that a busy machine slows all of them."""
    firsts = [seconds(work) for work in works]
    times = np.array([[seconds(work) for work in works] for _ in range(repeats)])
    best = times.min(axis=0)
    return [
        Timing(float(b), max(first - float(b), 0.0)) for first, b in zip(firsts, best, strict=True)
    ]


def seconds(work: Callable[[], object]) -> float:
    """Wall clock of one run."""
    if jax.default_backend() == "cpu":
        time.sleep(SETTLING)
    began = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - began


def faster(
    name: str, amount: float, unit: str, ours: Timing, reference: str, theirs: float, goal=None
) -> Row:
    """A row of speeds: `amount` of work in our time, and in `theirs`."""
    return Row(
        name,
        amount / ours.best,
        unit,
        reference,
        amount / theirs,
        theirs / ours.best,
        goal,
        ours.compile_time,
    )


def within(name: str, value: float, unit: str, reference: str, limit: float, goal=1.0) -> Row:
    """A row of a cost that should stay below a limit, or near a floor."""
    return Row(name, value, unit, reference, limit, limit / value, goal)


def matmul_work(rows: int, width: int = 1000) -> tuple[Callable[[], object], float]:
    """A product of float64 matrices, and its floating-point operations."""
    x = jnp.ones((rows, width), jnp.float64)
    w = jnp.ones((width, width), jnp.float64)
    product = jax.jit(jnp.matmul)
    return lambda: product(x, w), 2.0 * rows * width * width


def copy_work(count: int = 10_000_000, turns: int = 50) -> tuple[Callable[[], object], float]:
    """Updates of an array in place, and the bytes they read and write."""
    update = jax.jit(
        lambda x: lax.fori_loop(0, turns, lambda _, x: x * 0.5 + 1.0, x), donate_argnums=0
    )
    kept = [jnp.zeros((count,), jnp.float64)]

    def work() -> object:
        kept[0] = update(kept[0])
        return kept[0]

    return work, 2.0 * 8 * count * turns
