"""Many systems of a few bodies side by side, in one loop.

On the way the systems are the last axis of every array, so that arithmetic runs along them. The
arrays are bare, since `Particles` with the systems last would have the wrong shapes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxstepper.physics.gravity import by_platform

# Systems in one loop on a CPU.
AT_ONCE = 64
# Steps in one turn of a loop on an accelerator, whose kernels take longer to start than a few
# bodies to step: XLA makes fewer kernels of several steps than several times those of one. On an
# H200, 16 gave little more than 4 and compiled five times as long.
STEPS_AT_ONCE_ON_ACCELERATOR = 4

Tree = Any
Leaves = list[Array]


def each(function: Callable[..., Tree], *batch: Tree) -> Tree:
    """`vmap`, but the program of one alone has no axis of batches.

    A loop of one needs no masks, and is up to four times as fast.
    """
    if len(jax.tree.leaves(batch)[0]) > 1:
        return jax.vmap(function)(*batch)
    alone = function(*jax.tree.map(lambda x: x[0], batch))
    return jax.tree.map(lambda x: x[None], alone)


def steps_of_all(step: Callable[[Tree], Tree], batch: Tree, length: int) -> Tree:
    """A batch `[B, ...]` after so many steps, each of all members."""
    leaves, structure = _systems_last(batch)
    leaves = steps_of_one(_of_all(step, structure), leaves, length)
    return _systems_first(leaves, structure)


def steps_of_one(step: Callable[[Tree], Tree], start: Tree, length: int) -> Tree:
    """The state after so many steps."""

    def body(now: Tree, _: None) -> tuple[Tree, None]:
        return step(now), None

    at_once = 1 if jax.default_backend() == "cpu" else STEPS_AT_ONCE_ON_ACCELERATOR
    return lax.scan(body, start, length=length, unroll=at_once)[0]


def steps_until_all_end(
    goes_on: Callable[[Tree], Bool[Array, ""]],
    step: Callable[[Bool[Array, ""], Tree], Tree],
    batch: Tree,
) -> Tree:
    """A batch `[B, ...]` where none goes on any more.

    `vmap` of a `while_loop` would choose between the old and the new state of every member after
    each step. Then XLA computes new positions several times, and steps take three times as long.

    Args:
        goes_on: whether a member does.
        step: of whether a member goes on, and the member; it leaves one that does not as it is.
        batch: the members.
    """

    def look(member: Tree) -> tuple[Bool[Array, ""], Tree]:
        return goes_on(member), member

    def step_and_look(looked: tuple[Bool[Array, ""], Tree]) -> tuple[Bool[Array, ""], Tree]:
        return look(step(*looked))

    def run(block: Tree) -> Tree:
        looked = jax.vmap(look)(block)
        leaves, structure = _systems_last(looked)
        of_all = _of_all(step_and_look, structure)
        leaves = lax.while_loop(lambda now: jnp.any(now[0]), of_all, leaves)
        return _systems_first(leaves, structure)[1]

    return by_platform(cpu=lambda: _in_blocks(run, batch), accelerator=lambda: run(batch))


def _in_blocks(run: Callable[[Tree], Tree], batch: Tree) -> Tree:
    """One block after the other, whose states stay in cache and which XLA so compiles whole."""
    count = len(jax.tree.leaves(batch)[0])
    whole = count - count % AT_ONCE
    parts = []
    if whole:
        blocks = jax.tree.map(lambda x: x[:whole].reshape(-1, AT_ONCE, *x.shape[1:]), batch)
        done = lax.map(run, blocks)
        parts.append(jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), done))
    if whole < count:
        parts.append(run(jax.tree.map(lambda x: x[whole:], batch)))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)


def _systems_last(batch: Tree) -> tuple[Leaves, Any]:
    leaves, structure = jax.tree.flatten(batch)
    return [jnp.moveaxis(leaf, 0, -1) for leaf in leaves], structure


def _systems_first(leaves: Leaves, structure: Any) -> Tree:
    return jax.tree.unflatten(structure, [jnp.moveaxis(leaf, -1, 0) for leaf in leaves])


def _of_all(function: Callable[[Tree], Tree], structure: Any) -> Callable[[Leaves], Leaves]:
    def of_leaves(leaves: Leaves) -> Leaves:
        return jax.tree.leaves(function(jax.tree.unflatten(structure, leaves)))

    return jax.vmap(of_leaves, in_axes=-1, out_axes=-1)
