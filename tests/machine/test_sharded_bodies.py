"""One system whose pairs are shared among devices comes to what it comes to on one device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxstepper.machine import processes
from jaxstepper.machine.devices import everywhere, sharded
from jaxstepper.network.features import FeatureSpec, network_input, observe
from jaxstepper.network.history import empty_history
from jaxstepper.physics.diagnostics import total_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import plummer
from jaxstepper.physics.jerk import acceleration_and_jerk
from jaxstepper.physics.pairs import encounters, minimum_over_pairs, sum_over_pairs
from jaxstepper.physics.particles import Particles, from_table
from jaxstepper.stepping.criteria import Aarseth
from jaxstepper.stepping.individual import run_individual
from jaxstepper.stepping.literature import HairerSoderlind, Huayno
from jaxstepper.stepping.rollout import Limits, run_steps, run_until
from jaxstepper.stepping.scheme import Hermite

HERE = Path(__file__).parent
# Neither two nor four devices divide the bodies; two of them are massless and one is far away.
COUNT = 70
GRAVITY = Gravity(0.01)
PATIENCE = 300
MOST_OFF = 1e-12


def bodies() -> Particles:
    table = np.array(plummer(1, COUNT))
    table[3:5, 0] = 0.0
    table[5, 1:4] = 1e3
    return from_table(table, Gravity(0.01).acceleration, jnp.float64)


def of_pairs(p: Particles) -> dict[str, jax.Array]:
    """All that sums over pairs, and a derivative of it."""
    spec = FeatureSpec("rich", 0, GRAVITY.softening)
    seen = observe(FeatureSpec("rich", 0, 2 * GRAVITY.softening), GRAVITY, p)

    def squares(x: jax.Array) -> jax.Array:
        return jnp.sum(GRAVITY.acceleration(x, p.mass, p.time) ** 2)

    pairs, rates = encounters(
        lambda pairs: pairs.speed_squared / pairs.distance_squared, p, GRAVITY.softening
    )
    a, j = acceleration_and_jerk(GRAVITY, p.position, p.velocity, p.mass, p.time)
    return {
        "acceleration": GRAVITY.acceleration(p.position, p.mass, p.time),
        "derivative": jax.grad(squares)(p.position),
        "energy": total_energy(p, GRAVITY),
        "of jerk": jnp.concatenate((a, j)),
        "smallest": minimum_over_pairs(lambda pairs: pairs.distance, p, GRAVITY.softening),
        "sum": sum_over_pairs(lambda pairs: pairs.mu / pairs.distance, p, GRAVITY.softening),
        "rates": rates,
        "distances": pairs.distance,
        "features": network_input(spec, empty_history(0, seen), seen),
    }


def rollouts(p: Particles) -> dict[str, jax.Array]:
    """Where a rule and a scheme lead; in one process, another rule and individual steps too."""
    shared = run_until(Huayno(0.1, 0.01).on(Hermite()), GRAVITY, p, Limits(steps=5))
    ends = {"shared": shared.particles.position, "time": shared.particles.time}
    if processes.are_several():
        return ends
    reversible = run_steps(HairerSoderlind(0.1, 0.01), GRAVITY, p, 5)
    individual = run_individual(Aarseth(0.1), GRAVITY, p, 1 / 32, 1 / 64)
    return ends | {
        "reversible": reversible.particles.position,
        "individual": individual.motion,
    }


def differences() -> dict[str, float]:
    """The largest difference of each, relative to its largest value, from one device's."""
    here = bodies()
    alone = jax.jit(of_pairs)(here) | rollouts(here)
    with sharded():
        p = everywhere(here)
        program = jax.jit(of_pairs).lower(p).compile()
        assert f"num_partitions={jax.device_count()}" in program.as_text()
        together = program(p) | rollouts(p)
    off = {}
    for name, value in alone.items():
        assert np.all(np.isfinite(value)), name
        error = np.max(np.abs(np.asarray(together[name]) - value))
        off[name] = float(error / np.max(np.abs(value)))
    return off


def numbers_per_body(count: int) -> float:
    """The scratch memory of each device for the pulls on a large system, over N numbers."""
    x, m = (jax.ShapeDtypeStruct(shape, jnp.float64) for shape in ((count, 3), (count,)))
    with sharded():
        program = jax.jit(lambda x, m: GRAVITY.acceleration(x, m, jnp.zeros(()))).lower(x, m)
        return program.compile().memory_analysis().temp_size_in_bytes / 8 / count


def in_a_process(address: str = "", count: int = 1, index: int = 0) -> None:
    """Prints the differences, of each process to itself."""
    jax.config.update("jax_enable_x64", True)
    if address:
        processes.join(address, count, index)
    print(json.dumps(differences()))
    # Of the rows of a single device it would be 10^6 / devices.
    assert numbers_per_body(10**6) < 100
    processes.done()


def start(arguments: str, devices: int) -> subprocess.Popen:
    paths = [str(HERE), str(HERE.parent), str(HERE.parent.parent), *sys.path]
    settings = {"JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": os.pathsep.join(paths)}
    code = f"import test_sharded_bodies as t; t.in_a_process({arguments})"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_close(*started: subprocess.Popen) -> None:
    said = [process.communicate(timeout=PATIENCE) for process in started]
    for process, (out, err) in zip(started, said, strict=True):
        assert process.returncode == 0, err
        off = json.loads(out.splitlines()[-1])
        assert len(off) == (11 if len(started) > 1 else 13)
        assert {name: x for name, x in off.items() if not x <= MOST_OFF} == {}


@pytest.mark.processes
def test_four_devices_share_the_pairs() -> None:
    assert_close(start("", 4))


@pytest.mark.processes
@pytest.mark.slow  # four devices of one process stand for it
def test_two_processes_share_the_pairs() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert_close(*(start(f"'127.0.0.1:{port}', 2, {i}", 1) for i in range(2)))
