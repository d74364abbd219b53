"""Several processes as one run.

All processes run the same program and make the same device calls in the same order. So they must
first agree on whatever depends on a clock, a signal, a random draw or a file. Only the main process
prints and writes. In a run of one process, nothing here has an effect.
"""

import os
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from jaxstepper.errors import UserError

Result = TypeVar("Result")
Tree = TypeVar("Tree")


def join(address: str | None, count: int | None, index: int | None) -> None:
    """Joins the other processes of the run; call it before any other use of JAX.

    This is process `index` of `count`, and process 0 is at `address`, HOST:PORT. If they are None,
    the cluster (SLURM, Open MPI, a TPU pod, ...) knows them.

    Raises:
        UserError: the cluster is unknown, or the other processes cannot be reached.
    """
    if jax.distributed.is_initialized():
        return
    # The service would keep SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(address, count, index)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"cannot join the processes of this run ({reason}); --distributed works under SLURM, "
            "Open MPI and on TPU pods; elsewhere give each process --coordinator HOST:PORT "
            "--num-processes N --process-id I"
        ) from error
    _keep_stdout_clean()
    if not is_main():
        warnings.simplefilter("ignore")


def _keep_stdout_clean() -> None:
    """Keeps Gloo, which connects CPUs and prints, away from standard output."""
    sys.stdout.flush()
    sys.stdout = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding)
    os.dup2(2, 1)


def are_several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_main() -> bool:
    """Whether this is the process that prints and writes."""
    return not are_several() or jax.process_index() == 0


def from_main(value: int) -> int:
    """The main process's value, in 0 ... 2^32 - 1, once all processes have called this."""
    if not are_several():
        return value
    return int(multihost_utils.broadcast_one_to_all(np.uint32(value)))


def meet() -> None:
    """Returns once all processes have called it."""
    from_main(0)


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if not are_several():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


class Elsewhere(Exception):
    """An action failed in the main process, which knows why."""


def try_on_main(action: Callable[[], Result]) -> Result | None:
    """Runs `action` in the main process and returns its result; the others wait and get None.

    Raises:
        Exception: whatever `action` raised, in the main process.
        Elsewhere: `action` failed, in the others.
    """
    error: Exception | None = None
    result: Result | None = None
    if is_main():
        try:
            result = action()
        except Exception as raised:
            error = raised
    if any_of(error is not None):
        raise error or Elsewhere("the main process failed")
    return result


def on_main(action: Callable[[], Result]) -> Result | None:
    """As `try_on_main`, but a failure ends the run, and the other processes exit silently."""
    try:
        return try_on_main(action)
    except Exception as error:
        if are_several():
            # All at once, so that no process kills the others as it exits.
            jax.distributed.shutdown()
        if isinstance(error, Elsewhere):
            raise SystemExit(2) from None
        raise


def to_host(tree: Tree) -> Tree:
    """The tree with arrays that every process can read; all processes must call it."""
    leaves, structure = jax.tree.flatten(tree)
    far = {
        i: x
        for i, x in enumerate(leaves)
        if isinstance(x, jax.Array) and not x.is_fully_addressable
    }
    if far:
        sharding = next(iter(far.values())).sharding
        assert isinstance(sharding, NamedSharding)
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        gather = jax.jit(lambda *arrays: arrays, out_shardings=everywhere)
        for i, array in zip(far, gather(*far.values()), strict=True):
            leaves[i] = np.asarray(array)
    return jax.tree.unflatten(structure, leaves)
