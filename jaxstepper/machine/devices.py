"""The devices that share the systems of a run.

A mesh has one axis, along which the systems of a batch are split evenly. Every device holds
everything else (network, optimiser, random key, totals). XLA compiles one program for all devices
of all processes, and adds the communication. `None` stands for the mesh of a single device.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxstepper.errors import UserError

SYSTEMS = "systems"
"""The axis of a mesh."""

Tree = TypeVar("Tree")


def choose_mesh(systems: int) -> Mesh | None:
    """The largest mesh that divides so many systems evenly, with equally many devices a process.

    Raises:
        UserError: the systems do not divide among the processes.
    """
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


def make_mesh(devices: list[jax.Device]) -> Mesh:
    """A mesh of these devices."""
    return jax.make_mesh((len(devices),), (SYSTEMS,), (AxisType.Auto,), devices=devices)


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


def each_its_share(mesh: Mesh | None, function: Callable[..., Tree]) -> Callable[..., Tree]:
    """Compiles `function(shared, batch)` so that each device runs it on its share of the batch.

    Unlike in a loop over split arrays, no device waits for others in every iteration. Leaves of
    `batch` and of the result are `[B, ...]`.
    """
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
