"""The devices that share the systems of a run, or the bodies of one large system.

A mesh has one axis. Along it either the systems of a batch are split evenly, or the rows of the
pair matrix of one system (`sharded`). Every device holds everything else (network, optimiser,
random key, totals; the state of the one system). XLA compiles one program for all devices of all
processes, and adds the communication. `None` stands for the mesh of a single device.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxstepper.errors import UserError

SYSTEMS = "systems"
"""The axis of a mesh along which systems are split."""
BODIES = "bodies"
"""That along which the rows of the pair matrix are."""

Tree = TypeVar("Tree")


def choose_mesh(systems: int) -> Mesh | None:
    """The largest mesh that divides so many systems evenly, with equally many devices a process.

    None within `sharded`, where all devices share each system.

    Raises:
        UserError: the systems do not divide among the processes.
    """
    if BODIES in jax.sharding.get_abstract_mesh().axis_names:
        return None
    processes = jax.process_count()
    if systems % processes:
        raise UserError(
            f"{processes} processes share the systems of a run evenly, and there are {systems}; "
            "change --num-orbits or the number of processes"
        )
    by_process = [local_devices(index) for index in range(processes)]
    share = systems // processes
    count = max(n for n in range(1, min(map(len, by_process)) + 1) if share % n == 0)
    chosen = [device for local in by_process for device in local[:count]]
    return make_mesh(chosen) if len(chosen) > 1 else None


def local_devices(process: int | None = None) -> list[jax.Device]:
    """The devices of a process (this one by default), of the kind of the default device."""
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    return jax.local_devices(process, getattr(default, "platform", default))


def make_mesh(devices: Sequence[jax.Device], axis: str = SYSTEMS) -> Mesh:
    """A mesh of these devices."""
    return jax.make_mesh((len(devices),), (axis,), (AxisType.Auto,), devices=list(devices))


def describe(mesh: Mesh | None) -> str:
    """The devices in words, such as "2 x NVIDIA H200 (gpu)", and whether some are idle."""
    devices = local_devices()[:1] if mesh is None else list(mesh.devices.flat)
    words = f"{devices[0].device_kind} ({devices[0].platform})"
    words = f"{len(devices)} x {words}" if mesh is not None else words
    present = len(local_devices()) * jax.process_count()
    if len(devices) < present:
        words += f", {len(devices)} of {present} in use"
    return words


def split(mesh: Mesh | None, tree: Tree) -> Tree:
    """Under `jit`: leaves `[B, ...]`, split among the devices."""
    return _constrain(mesh, tree, PartitionSpec(SYSTEMS))


def whole(mesh: Mesh | None, tree: Tree) -> Tree:
    """Under `jit`: leaves of any shape, held whole by each device."""
    return _constrain(mesh, tree, PartitionSpec())


def _constrain(mesh: Mesh | None, tree: Tree, spec: PartitionSpec) -> Tree:
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, spec))


@lru_cache
def each_its_share(
    mesh: Mesh | None, function: Callable[..., Tree], *fixed: Hashable
) -> Callable[..., Tree]:
    """Compiles `function(*fixed, shared, batch)` for each device to run on its share of the batch.

    Unlike in a loop over split arrays, no device waits for others in every iteration. Leaves of
    `batch` and of the result are `[B, ...]`. Equal arguments get the same program, compiled once.
    """
    function = partial(function, *fixed)
    if mesh is None:
        return jax.jit(function)
    specs = (PartitionSpec(), PartitionSpec(SYSTEMS))
    local = jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False)
    )
    # A program of several processes does not accept an array on a single device.
    return lambda *arguments: local(*jax.tree.map(_off_a_single_device, arguments))


def _off_a_single_device(x: Any) -> Any:
    """The array, on the host if one device holds all of it."""
    return x if isinstance(x, jax.Array) and len(x.sharding.device_set) > 1 else np.asarray(x)


@contextmanager
def sharded(devices: Sequence[jax.Device] | None = None) -> Iterator[Mesh]:
    """Within it, devices share the pairs of bodies: forces, energies, and what rules see of pairs.

        with sharded():
            end = run_until(rule, gravity, start, Limits(time=1.0))

    Each device sums over the pairs of its share of the bodies, in blocks. It holds the state of all
    of them, `[N, D]`, but never a matrix of pairs. Results are those of one device up to rounding,
    for every rule, scheme and rollout, under `jit`, `vmap` and `grad`, and for numbers of bodies
    that the devices do not divide. A few bodies (up to 16, for rules, or 6) are not split.

    Args:
        devices: those to share among; by default all of this kind, of all processes. All processes
            of a run must then take the same steps, of states and rules that are `everywhere`.
    """
    if devices is None:
        devices = [each for i in range(jax.process_count()) for each in local_devices(i)]
    mesh = make_mesh(devices, BODIES)
    with jax.set_mesh(mesh):
        yield mesh


def everywhere(tree: Tree) -> Tree:
    """The pytree with its arrays on all devices that share the pairs.

    Only several processes need it. Outside of `sharded` the pytree comes back as it is.
    """
    mesh = jax.sharding.get_mesh()
    if BODIES not in mesh.axis_names:
        return tree
    whole = NamedSharding(mesh, PartitionSpec())

    def put(x: Any) -> Any:
        return jax.device_put(np.asarray(x), whole) if isinstance(x, jax.Array | np.ndarray) else x

    return jax.tree.map(put, tree)


def share_rows(function: Callable[[Any], Tree], rows: Any) -> Tree:
    """`function(rows)`, which treats rows `[K, ...]` one by one; within `sharded`, in shares.

    The leaves of the rows and of the result are `[K, ...]`. Rows that the devices do not divide are
    filled up with copies of the last, whose results are dropped.
    """
    mesh, count = jax.sharding.get_abstract_mesh(), len(jax.tree.leaves(rows)[0])
    # Within a share of the rows, or of systems, there is nothing left to split.
    if BODIES not in mesh.auto_axes or count < mesh.size:
        return function(rows)
    missing = (0, -count % mesh.size)
    each, everywhere = PartitionSpec(BODIES), PartitionSpec()

    @jax.jit
    def run(rows: Any) -> Tree:
        # Whole before and after: the rest is arithmetic on N numbers, too little to be split.
        rows = jax.lax.with_sharding_constraint(rows, everywhere)
        rows = jax.tree.map(
            lambda x: jnp.pad(x, (missing, *[(0, 0)] * (x.ndim - 1)), mode="edge"), rows
        )
        shares = jax.shard_map(function, in_specs=each, out_specs=each)(rows)
        kept = jax.tree.map(lambda x: x[:count], shares)
        return jax.lax.with_sharding_constraint(kept, everywhere)

    return run(jax.tree.map(lambda x: x if isinstance(x, jax.core.Tracer) else np.asarray(x), rows))
