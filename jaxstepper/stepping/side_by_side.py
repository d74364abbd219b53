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
LANES = 64
# Steps in one turn of a loop on an accelerator, whose kernels take longer to start than a few
# bodies to step: XLA makes fewer kernels of several steps than several times those of one. On an
# H200, 16 gave 8 to 35 % more than 4 and compiled three times as long.
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
    lanes: int = LANES,
) -> Tree:
    """A batch `[B, ...]` where none goes on any more.

    `vmap` of a `while_loop` would choose between the old and the new state of every member after
    each step. Then XLA computes new positions several times, and steps take three times as long.

    Args:
        goes_on: whether a member does.
        step: of whether a member goes on, and the member; it leaves one that does not as it is.
        batch: the members.
        lanes: how many of them go side by side on a CPU.
    """

    def look(member: Tree) -> tuple[Bool[Array, ""], Tree]:
        return goes_on(member), member

    def step_and_look(looked: tuple[Bool[Array, ""], Tree]) -> tuple[Bool[Array, ""], Tree]:
        return look(step(*looked))

    leaves, structure = _systems_last(jax.vmap(look)(batch))
    of_all = _of_all(step_and_look, structure)
    ended = by_platform(
        cpu=lambda: _in_lanes(of_all, leaves, lanes),
        accelerator=lambda: lax.while_loop(lambda now: jnp.any(now[0]), of_all, leaves),
    )
    return _systems_first(ended, structure)[1]


def _in_lanes(of_all: Callable[[Leaves], Leaves], leaves: Leaves, lanes: int) -> Leaves:
    """A few members at a time, the next of which takes the place of one that has ended.

    So none waits for another, their states stay in cache, and XLA compiles the loop whole.

    Args:
        of_all: members one step further.
        leaves: arrays `[..., B]`, of which the first says which members go on.
        lanes: how many at a time.
    """
    count = leaves[0].shape[0]
    if count <= lanes:
        return lax.while_loop(lambda now: jnp.any(now[0]), of_all, leaves)
    # Members come and go several at a time, which costs some hundred operations.
    enough = lanes - max(1, lanes // 16)

    def fill(stands: tuple[Leaves, Array, Array]) -> tuple[Leaves, Array, Array]:
        everyone, who, coming = stands
        some = [x[..., who] for x in everyone]
        is_last = coming >= count

        def go_on(now: Leaves) -> Array:
            return jnp.sum(now[0], dtype=jnp.int32) > jnp.where(is_last, 0, enough)

        some = lax.while_loop(go_on, of_all, some)
        everyone = [
            x.at[..., who].set(y, unique_indices=True) for x, y in zip(everyone, some, strict=True)
        ]
        free = ~some[0]
        heir = coming + jnp.cumsum(free, dtype=jnp.int32) - 1
        who = jnp.where(free & (heir < count), heir, who)
        return everyone, who, coming + jnp.sum(free, dtype=jnp.int32)

    def is_left(stands: tuple[Leaves, Array, Array]) -> Array:
        everyone, who, coming = stands
        return jnp.any(everyone[0][who]) | (coming < count)

    begin = leaves, jnp.arange(lanes, dtype=jnp.int32), jnp.int32(lanes)
    return lax.while_loop(is_left, fill, begin)[0]


def _systems_last(batch: Tree) -> tuple[Leaves, Any]:
    leaves, structure = jax.tree.flatten(batch)
    return [jnp.moveaxis(leaf, 0, -1) for leaf in leaves], structure


def _systems_first(leaves: Leaves, structure: Any) -> Tree:
    return jax.tree.unflatten(structure, [jnp.moveaxis(leaf, -1, 0) for leaf in leaves])


def _of_all(function: Callable[[Tree], Tree], structure: Any) -> Callable[[Leaves], Leaves]:
    def of_leaves(leaves: Leaves) -> Leaves:
        return jax.tree.leaves(function(jax.tree.unflatten(structure, leaves)))

    return jax.vmap(of_leaves, in_axes=-1, out_axes=-1)
