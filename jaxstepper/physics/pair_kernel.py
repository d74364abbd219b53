"""Reductions over all pairs in one kernel, for GPUs that Pallas writes Triton code for.

XLA keeps whole blocks of the pair matrix in memory, or reads every source anew for every target.
Here the pairs of a block of targets with a few sources at a time stay in registers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxstepper.physics.reductions import Reduction

# With fewer bodies, XLA's own sums take as long: starting kernels is what takes the time. A step of
# 1024 bodies takes an H200 16 us either way, one of 4096 bodies 52 with the kernel and 104 without.
LEAST_BODIES = 1024
# By the bytes of a number: targets of a program of the kernel, and sources at a time (tried: 16 to
# 512, and 1 to 128).
BLOCKS = {4: (256, 4), 8: (256, 2)}
WARPS = 4
# Programs that keep a large chip busy; where there are fewer targets, each has part of the sources.
PROGRAMS = 1024

Terms = Callable[[Sequence[Array], Sequence[Array]], list[Array]]


def suits(sources: int) -> bool:
    """Whether this process has a GPU, a JAX that can write the kernel, and work enough for it."""
    if jax.default_backend() != "gpu" or sources < LEAST_BODIES:
        return False
    try:
        import_module("jax.experimental.pallas.triton")
    except ImportError:  # JAX means to give it up
        return False
    return True


def over_sources(
    terms: Terms,
    overs: Sequence[Reduction],
    targets: Sequence[Array],
    sources: Sequence[Array],
    interpret: bool = False,
) -> list[Array]:
    """Reductions `[K]` over N sources of what each of them is to K targets.

    Args:
        terms: of sources and targets whose arrays broadcast, the terms of each reduction. Behind
            the arrays of the sources comes their number, 0 to N - 1, or more for copies of the last
            without mass, which fill up the last block.
        overs: the reduction of each term.
        targets: arrays `[K]`.
        sources: arrays `[N]`; the last is the mass.
        interpret: run the kernel's operations one by one, on any platform.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    (count,), (many,) = targets[0].shape, sources[0].shape
    dtype = sources[0].dtype
    at_once, together = BLOCKS[dtype.itemsize]
    blocks = pl.cdiv(count, at_once)
    parts = pl.next_power_of_2(pl.cdiv(PROGRAMS, blocks))
    parts = min(parts, pl.next_power_of_2(pl.cdiv(many, together)))
    size = together * pl.cdiv(many, parts * together)
    targets = [jnp.pad(x, (0, blocks * at_once - count), mode="edge") for x in targets]
    *others, mass = sources
    missing = (0, parts * size - many)
    sources = [*(jnp.pad(x, missing, mode="edge") for x in others), jnp.pad(mass, missing)]
    target = pl.BlockSpec((at_once,), lambda i, part: (i,))
    source = pl.BlockSpec((size,), lambda i, part: (part,))
    # Where devices share the targets, so they do the results.
    like = partial(jax.ShapeDtypeStruct, manual_axis_type=jax.typeof(targets[0]).manual_axis_type)
    found = pl.pallas_call(
        partial(_reduce_block, terms, overs, len(targets), together),
        grid=(blocks, parts),
        in_specs=[target] * len(targets) + [source] * len(sources),
        out_specs=[pl.BlockSpec((None, at_once), lambda i, part: (part, i))] * len(overs),
        out_shape=[like((parts, blocks * at_once), dtype)] * len(overs),
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=WARPS),
    )(*targets, *sources)
    return [over.reduce(x, axis=0)[:count] for over, x in zip(overs, found, strict=True)]


def _reduce_block(
    terms: Terms, overs: Sequence[Reduction], num_targets: int, together: int, *refs: Any
) -> None:
    """What a part of the sources is to a block of targets; `refs` are inputs, then results."""
    from jax.experimental import pallas as pl

    targets = [ref[...][:, None] for ref in refs[:num_targets]]
    sources, results = refs[num_targets : -len(overs)], refs[-len(overs) :]
    (size,) = sources[0].shape
    first = pl.program_id(1) * size

    def add(block: Array, totals: list[Array]) -> list[Array]:
        at = block * together
        some = [ref[pl.ds(at, together)][None, :] for ref in sources]
        number = first + at + lax.broadcasted_iota(jnp.int32, (1, together), 1)
        found = terms([*some, number], targets)
        return [over.combine(t, x) for over, t, x in zip(overs, totals, found, strict=True)]

    shape = (targets[0].shape[0], together)
    nothing = [jnp.full(shape, over.neutral, sources[0].dtype) for over in overs]
    totals = lax.fori_loop(0, size // together, add, nothing)
    for result, over, total in zip(results, overs, totals, strict=True):
        result[...] = over.reduce(total, axis=1)


def inverse_distance(r_squared: Array) -> Array:
    """1/r, and 0 where r = 0; in a kernel, which has no gradient."""
    return jnp.where(r_squared > 0, lax.rsqrt(r_squared), 0.0)
