"""Rows of the direct sum as a share of what the chip can do."""

import itertools
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from benchmark_rollouts import GRAVITY, tables_of
from benchmark_rows import Row, best_times, faster, within

from jaxstepper.physics import pair_kernel
from jaxstepper.physics.gravity import self_acceleration

OPERATIONS_PER_PAIR = 20
# Multiply-adds of an element, in four chains so that one need not wait for the last.
CHAINS, LINKS = 4, 64
ELEMENTS = {"cpu": 2**14, "gpu": 2**21, "tpu": 2**24}
# On a GPU, XLA would store what is between so many operations. A kernel of our own does not: links
# of a chain, and elements of a program.
LINKS_IN_KERNEL, ELEMENTS_AT_ONCE = 8192, 1024
# On a CPU, more bodies than these take minutes.
BODIES = {"cpu": (1024, 4096), "gpu": (4096, 16_384, 65_536, 262_144)}


def sum_by_xla(position: jax.Array, mass: jax.Array, softening: float) -> jax.Array:
    """The direct sum without a kernel of its own, as it is where there is no such kernel."""
    least = pair_kernel.LEAST_BODIES
    try:
        pair_kernel.LEAST_BODIES = len(mass) + 1
        return self_acceleration(position, mass, softening)
    finally:
        pair_kernel.LEAST_BODIES = least


WAYS = {"direct sum": self_acceleration, "direct sum, XLA": sum_by_xla}


def direct_sums(repeats: int, quick: bool) -> Iterator[Row]:
    """Operations per second of all accelerations, beside the peak measured for such operations."""
    platform = jax.default_backend()
    sizes = BODIES.get(platform, BODIES["gpu"])
    dtypes = (jnp.float32, jnp.float64) if jax.config.jax_enable_x64 else (jnp.float32,)
    counts = sizes[:1] if quick else sizes
    for dtype, way, count in itertools.product(dtypes, ways_to_sum(platform), counts):
        yield from direct_sum(repeats, way, count, dtype)


def direct_sum(repeats: int, way: str, count: int, dtype: type) -> Iterator[Row]:
    """One of them, and the memory it takes."""
    platform = jax.default_backend()
    table = jnp.asarray(tables_of(1, count, 3)[0], dtype)
    accelerations = partial(WAYS[way], softening=GRAVITY.softening)
    # A function of its own, or JAX would remember the other way.
    bodies = table[:, 1:4], table[:, 0]
    run = jax.jit(lambda position, mass: accelerations(position, mass)).lower(*bodies).compile()
    peak_work, peak_operations = peak_of_chip(dtype, ELEMENTS.get(platform, 2**24))
    ours, peak = best_times(repeats, lambda: run(*bodies), peak_work)
    operations = OPERATIONS_PER_PAIR * float(count) ** 2
    at_peak = operations / (peak_operations / peak.best)
    name = f"{way} N={count} {jnp.dtype(dtype).name}"
    goal = None if platform == "cpu" else 0.5
    yield faster(name, operations, "operations/s", ours, "peak", at_peak, goal)
    numbers = run.memory_analysis().temp_size_in_bytes / table.dtype.itemsize
    row_name, unit = f"{name}, memory", "numbers/body"
    yield within(row_name, numbers / count, unit, "a row of all pairs", count, 2.0)


def ways_to_sum(platform: str) -> list[str]:
    """The direct sum, and on a GPU, which has a kernel for it, the one without, by name."""
    return list(WAYS)[: None if platform == "gpu" else 1]


@lru_cache
def peak_of_chip(dtype: type, elements: int) -> tuple[Callable[[], jax.Array], float]:
    """Chains of multiply-adds on numbers that stay in registers, and their operations."""
    x = jnp.full((elements,), 0.5, dtype)
    if pair_kernel.suits(elements):
        in_kernel = jax.jit(chains_in_kernel)
        return lambda: in_kernel(x), 2.0 * CHAINS * LINKS_IN_KERNEL * elements

    @jax.jit
    def chains(x: jax.Array) -> jax.Array:
        values = [x + k for k in range(CHAINS)]
        for _ in range(LINKS):
            values = [value * x + 0.5 for value in values]
        return sum(values, start=jnp.zeros_like(x))

    return lambda: chains(x), 2.0 * CHAINS * LINKS * elements


def chains_in_kernel(x: jax.Array, interpret: bool = False) -> jax.Array:
    """The same in a kernel for GPUs."""
    from jax.experimental import pallas as pl

    def kernel(numbers: Any, result: Any) -> None:
        x = numbers[...]

        def link(_: int, values: list[jax.Array]) -> list[jax.Array]:
            return [value * x + 0.5 for value in values]

        values = jax.lax.fori_loop(0, LINKS_IN_KERNEL, link, [x + k for k in range(CHAINS)])
        result[...] = sum(values, start=jnp.zeros_like(x))

    block = pl.BlockSpec((ELEMENTS_AT_ONCE,), lambda i: (i,))
    return pl.pallas_call(
        kernel,
        grid=(x.size // ELEMENTS_AT_ONCE,),
        in_specs=[block],
        out_specs=block,
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        interpret=interpret,
    )(x)
