"""Several processes as one run.

All processes run the same program and make the same device calls in the same order. So they must
first agree on whatever depends on a clock, a signal, a random draw or a file. Only the main process
prints and writes. In a run of one process, nothing here has an effect.
"""

import math
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from jaxstepper.errors import UserError
from jaxstepper.machine.peers import Peers, relay

Result = TypeVar("Result")
Tree = TypeVar("Tree")


_peers: Peers | None = None
_words_of_loss: Callable[[], str] = str

# JAX ends a process by its own heartbeat at the latest, if another one hangs.
JAX_HEARTBEAT = 600


def join(
    address: str | None,
    count: int | None,
    index: int | None,
    seconds: float = 45.0,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Joins the other processes of the run; call it before any other use of JAX.

    This is process `index` of `count`, and process 0 is at `address`, HOST:PORT. If they are None,
    the cluster (SLURM, Open MPI, a TPU pod, ...) knows them. From then on, the end of another
    process ends this one, after a line to `say`.

    Raises:
        UserError: the cluster is unknown, or the others have not come after so many seconds.
    """
    global _peers
    if jax.distributed.is_initialized():
        return
    try:
        address, count, index = _complete(address, count, index, seconds)
        near = address
        if count > 1:
            _peers = Peers(address, count, index, partial(_end, say))
            _peers.call_roll(seconds)
            near = address if index == 0 else relay(address)
        # The service would keep SIGTERM for itself.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize(
            near,
            count,
            index,
            initialization_timeout=math.ceil(seconds),
            heartbeat_timeout_seconds=JAX_HEARTBEAT,
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"cannot join the processes of this run ({reason}); --distributed works under SLURM, "
            "Open MPI and on TPU pods; elsewhere give each process --coordinator HOST:PORT "
            "--num-processes N --process-id I"
        ) from error
    if _peers is not None:
        _peers.watch()
    _keep_stdout_clean()
    if not is_main():
        warnings.simplefilter("ignore")


def _complete(
    address: str | None, count: int | None, index: int | None, seconds: float
) -> tuple[str, int, int]:
    """The arguments of `join`, with what the cluster knows."""
    if address is None or count is None or index is None:
        from jax._src.clusters import ClusterEnv

        detect = ClusterEnv.auto_detect_unset_distributed_params
        address, count, index, _ = detect(address, count, index, None, None, math.ceil(seconds))
    if address is None or count is None or index is None:
        raise ValueError("no cluster is found")
    return address, count, index


def tell_on_loss(words: Callable[[], str]) -> None:
    """Sets what is said of the run when another process is gone."""
    global _words_of_loss
    _words_of_loss = words


def _end(say: Callable[[str], None], words: str, code: int, killed: bool) -> NoReturn:
    """Ends this process at once: a normal exit would wait for the others."""
    try:
        # What process 0 has left for, it has said for all.
        if killed or not words.startswith("process 0 "):
            say(f"{words}; {_words_of_loss() or 'this run ends'}" if killed else words)
        sys.stdout.flush()
    finally:
        os._exit(code)


def leave(code: int) -> NoReturn:
    """Ends this process, whose run has failed, and tells the others."""
    if _peers is not None:
        _peers.tell(f"left {code}")
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(code)


def done() -> None:
    """Tells the others that this process will end as it should."""
    if _peers is not None:
        _peers.tell("done")


def end_if_another_has() -> None:
    """Ends this process if the error of this moment comes from the end of another one."""
    if _peers is not None:
        _peers.end_if_another_has()


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
            done()
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
