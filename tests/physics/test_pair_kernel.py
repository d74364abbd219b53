"""The kernel for GPUs: step by step on a CPU, and as it is where there is a GPU."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from jaxstepper.machine.devices import BODIES as BODIES_AXIS
from jaxstepper.physics import gravity as forces
from jaxstepper.physics import jerk, pair_kernel
from jaxstepper.physics.gravity import Gravity, self_acceleration, self_potential_energy
from jaxstepper.physics.reductions import LARGEST_SQUARE, SUM_OF_FOURTH_POWERS

HAS_GPU = jax.default_backend() == "gpu"
BODIES = 700
# Newer versions of JAX ask which device a kernel is for.
H200 = AbstractDevice("NVIDIA H200", num_cores=132, platform="gpu")


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """So that several blocks of sources are taken, as on a large system."""
    whole = partial(pair_kernel.over_sources, interpret=not HAS_GPU)
    monkeypatch.setattr(pair_kernel, "over_sources", whole)
    monkeypatch.setattr(pair_kernel, "PROGRAMS", 64)


def bodies(count, dtype):
    """Two of them in the same place, and one very near to them."""
    rng = np.random.default_rng(1)
    position, mass = rng.normal(size=(count, 3)), rng.uniform(0.5, 1.5, count)
    position[1] = position[0]
    position[2] = position[0] + 1e-3 * np.array([0.6, 0.0, 0.8])
    velocity = rng.normal(size=(count, 3))
    return tuple(jnp.asarray(x, dtype) for x in (position, velocity, mass))


def agree(actual, expected, dtype):
    """The largest of each row is the scale."""
    within = 1e-12 if dtype == jnp.float64 else 2e-5
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        scale = np.max(np.abs(y), axis=-1, keepdims=True)
        np.testing.assert_allclose(x / scale, y / scale, rtol=0, atol=within)


# Less than a block; and several, with a part of one.
@pytest.mark.parametrize("count", [9, BODIES])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("softening", [0.0, 0.1])
def test_it_sums_as_rows_do(count, dtype, softening):
    position, velocity, mass = bodies(count, dtype)
    targets = forces._Targets(position, mass, jnp.arange(count))
    some = jax.tree.map(lambda x: x[3 : count - 3], targets)
    for falls in (None, LARGEST_SQUARE, SUM_OF_FOURTH_POWERS):
        ways = (forces._by_kernel, forces._by_rows)
        actual, expected = (way(some, position, mass, softening, falls) for way in ways)
        agree(actual.T, expected.T, dtype)
    actual = forces._depths_by_kernel(targets, position, mass, softening)
    agree(actual, forces._depths_by_rows(position, mass, softening), dtype)
    motion = jnp.concatenate((position.T, velocity.T))
    mine = jnp.concatenate((jnp.arange(count, dtype=dtype)[None], motion))[:, 2:]
    ways = (jerk._sums_by_kernel, jerk._sums_by_rows)
    agree(*(way(mine, motion, mass, softening) for way in ways), dtype)


def test_bodies_in_the_same_place_fall_at_once():
    position, _, mass = bodies(9, jnp.float64)
    targets = forces._Targets(position, mass, jnp.arange(9))
    for falls in (LARGEST_SQUARE, SUM_OF_FOURTH_POWERS):
        found = forces._by_kernel(targets, position, mass, 0.0, falls)[:, -1]
        assert np.isinf(found[:2]).all() and np.isfinite(found[2:]).all()


def test_its_slope_is_that_of_rows():
    position, _, mass = bodies(9, jnp.float64)
    targets = forces._Targets(position, mass, jnp.arange(9))

    def of(way):
        return jax.grad(lambda x: jnp.sum(way(targets, x, mass, 0.1, None) ** 2))(position)

    agree(of(forces._by_kernel), of(forces._by_rows), jnp.float64)


PROGRAMS = {
    "accelerations": lambda x, v, m: self_acceleration(x, m, 0.1),
    "falls": lambda x, v, m: forces._sums_over_pairs(x, m, 0.1, LARGEST_SQUARE),
    "energy": lambda x, v, m: self_potential_energy(x, m, 0.1),
    "jerks": lambda x, v, m: jerk.acceleration_and_jerk(Gravity(0.1), x, v, m, jnp.zeros(())),
    "a batch": lambda x, v, m: jax.vmap(self_acceleration, (0, None))(jnp.stack([x, v]), m),
}


@pytest.mark.parametrize("program", PROGRAMS)
# On one device, and in shares of four.
@pytest.mark.parametrize("mesh", [(1, "any"), (4, BODIES_AXIS)])
def test_it_is_the_way_of_gpus_alone(program, mesh, monkeypatch):
    """Programs made here, for devices that need not be here."""
    # Undo the fixture: what is lowered is compiled there.
    monkeypatch.setattr(pair_kernel, "over_sources", pair_kernel.over_sources.func)
    monkeypatch.setattr(pair_kernel, "suits", lambda sources: sources >= BODIES)
    size, axis = mesh

    def lowered(count, platform):
        kinds = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in bodies(count, jnp.float64)]
        gpus = AbstractMesh((size,), (axis,), (AxisType.Auto,), abstract_device=H200)
        with jax.sharding.use_abstract_mesh(gpus):
            traced = jax.jit(lambda *b: PROGRAMS[program](*b)).trace(*kinds)
            return "triton" in traced.lower(lowering_platforms=(platform,)).as_text()

    assert lowered(BODIES, "cuda") and not lowered(BODIES, "cpu")
    assert not lowered(BODIES - 1, "cuda")


def test_it_suits_many_bodies_on_a_gpu(monkeypatch):
    assert pair_kernel.suits(pair_kernel.LEAST_BODIES) == HAS_GPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert pair_kernel.suits(pair_kernel.LEAST_BODIES)
    assert not pair_kernel.suits(pair_kernel.LEAST_BODIES - 1)
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    assert not pair_kernel.suits(pair_kernel.LEAST_BODIES)
