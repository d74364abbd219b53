"""A candidate for GPUs: the direct sum as a Pallas kernel, measured beside the plain one."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

# Bodies that a program of the kernel pulls on, and sources that it reads at a time: pairs of them
# stay in registers.
TARGETS, SOURCES = 64, 32
# Programs that keep a large chip busy; where there are fewer targets, each has part of the sources.
PROGRAMS = 1024


def acceleration(
    position: Float[Array, "N D"],
    mass: Float[Array, " N"],
    softening: float = 0.0,
    interpret: bool = False,
) -> Float[Array, "N D"]:
    """`jaxstepper.physics.gravity.self_acceleration`, `[N, D]`, in one kernel.

    Args:
        position: of the bodies.
        mass: their masses.
        softening: Plummer softening length.
        interpret: run the kernel's operations one by one, on any platform.
    """
    count, dim = position.shape
    blocks = pl.cdiv(count, TARGETS)
    parts = pl.next_power_of_2(pl.cdiv(PROGRAMS, blocks))
    size = parts * TARGETS * pl.cdiv(blocks, parts)
    # Copies of the last body without mass fill the last blocks.
    missing = size - count
    x = [jnp.pad(position[:, k], (0, missing), mode="edge") for k in range(dim)]
    target = pl.BlockSpec((TARGETS,), lambda i, part: (i,))
    source = pl.BlockSpec((size // parts,), lambda i, part: (part,))
    pulls = pl.pallas_call(
        partial(_add_pulls, dim, softening),
        grid=(size // TARGETS, parts),
        in_specs=[target] * dim + [source] * (dim + 1),
        out_specs=[pl.BlockSpec((None, TARGETS), lambda i, part: (part, i))] * dim,
        out_shape=[jax.ShapeDtypeStruct((parts, size), position.dtype)] * dim,
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4),
    )(*x, *x, jnp.pad(mass, (0, missing)))
    return jnp.stack([jnp.sum(pull, axis=0)[:count] for pull in pulls], axis=1)


def _add_pulls(dim: int, softening: float, *refs) -> None:
    """Pulls of a part of the sources on a block of targets, component by component."""
    x = [ref[...] for ref in refs[:dim]]
    *sources, masses = refs[dim : 2 * dim + 1]
    pulls = refs[2 * dim + 1 :]

    def add_block(block: Array, total: list[Array]) -> list[Array]:
        here = pl.ds(block * SOURCES, SOURCES)
        dx = [source[here][None, :] - x_k[:, None] for source, x_k in zip(sources, x, strict=True)]
        r_squared = sum((d * d for d in dx), start=jnp.full_like(dx[0], softening**2))
        apart = r_squared > 0
        inverse = jnp.where(apart, lax.rsqrt(jnp.where(apart, r_squared, 1.0)), 0.0)
        weight = masses[here][None, :] * (inverse * inverse * inverse)
        return [t + weight * d for t, d in zip(total, dx, strict=True)]

    nothing = [jnp.zeros((TARGETS, SOURCES), x[0].dtype)] * dim
    total = lax.fori_loop(0, masses.shape[0] // SOURCES, add_block, nothing)
    for pull, total_k in zip(pulls, total, strict=True):
        pull[...] = jnp.sum(total_k, axis=1)
