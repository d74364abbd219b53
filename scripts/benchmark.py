"""Measures what jaxstepper takes for its work, after compilation, as ratios within one run.

    python scripts/benchmark.py [--only PATTERN] [--json FILE] [--quick]

Rows are {name, value, unit, reference, reference_value, ratio, goal}; a ratio >= goal is good.

`rollout`: 20,000 leapfrog steps of three bodies with a constant dt, against rebound's leapfrog in C
(the package `rebound`; without it there is no reference).

`orbits B`: training on B Kepler pairs at once with the default network: time for one orbit to have
one step accepted, both phases included, against the same at B = 1. With one orbit the floor is
reading the network's weights from memory for every attempt; with many, its matrix products.
"""

import argparse
import fnmatch
import json
import sys
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxstepper import setup
from jaxstepper.config import Config
from jaxstepper.controllers import fixed
from jaxstepper.dynamics import Gravity
from jaxstepper.initial_conditions import figure_eight
from jaxstepper.particles import from_table
from jaxstepper.prepare import prepare_training
from jaxstepper.simulate import run_steps
from jaxstepper.training import train_chunk

REPEATS = 5
ROLLOUT_STEPS = 20_000
DT = 1e-3
WARM_UP_EPOCHS, TIMED_EPOCHS = 10, 3


def best_time(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest of some runs, after one that compiles."""
    jax.block_until_ready(work())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(work())
        times.append(time.perf_counter() - began)
    return min(times)


def row(name: str, value: float, unit: str, reference: str, other: float, ratio: float) -> dict:
    """One figure beside its reference."""
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "reference": reference,
        "reference_value": other,
        "ratio": ratio,
        "goal": None,
    }


def rollout(repeats: int) -> Iterator[dict]:
    """Steps per second of a constant dt, N = 3."""
    gravity = Gravity()
    start = from_table(figure_eight(), gravity.acceleration, jnp.float64)
    ours = best_time(lambda: run_steps(fixed(DT), gravity, start, ROLLOUT_STEPS), repeats)
    theirs = rebound_time(figure_eight(), repeats)
    yield row(
        "rollout",
        ROLLOUT_STEPS / ours,
        "steps/s",
        "rebound leapfrog",
        ROLLOUT_STEPS / theirs,
        theirs / ours,
    )


def rebound_time(table: np.ndarray, repeats: int) -> float:
    """Seconds rebound's leapfrog takes for the same steps; NaN without rebound."""
    try:
        import rebound
    except ImportError:
        return float("nan")

    def run() -> None:
        simulation = rebound.Simulation()
        simulation.integrator, simulation.dt = "leapfrog", DT
        for mass, x, y, vx, vy in table:
            simulation.add(m=mass, x=x, y=y, vx=vx, vy=vy)
        simulation.steps(ROLLOUT_STEPS)

    return best_time(run, repeats)


def orbits(repeats: int, sizes: tuple[int, ...]) -> Iterator[dict]:
    """Seconds for an orbit to have a step accepted, for B orbits at once."""
    alone = float("nan")
    for size in sizes:
        cost = orbit_step_time(size, repeats)
        alone = cost if size == 1 else alone
        yield row(f"orbits {size}", cost, "s/orbit-step", "one orbit", alone, alone / cost)


def orbit_step_time(size: int, repeats: int, steps_per_epoch: int = 10) -> float:
    """Mean over some epochs of a run that has found its dt; each repeat does the same ones."""
    config = Config(multi_orbit=True, num_orbits=size, steps_per_epoch=steps_per_epoch, seed=0)
    tables = setup.initial_tables(config, {}, many=True)
    config = setup.with_shape_of(config, tables)
    plan, state = prepare_training(config, tables)
    enough = np.int32(10**6)
    state, *_ = train_chunk(plan, state, np.int32(WARM_UP_EPOCHS), enough)
    last = np.int32(WARM_UP_EPOCHS + TIMED_EPOCHS)

    def run() -> object:
        # The state is donated, so every run gets a copy.
        copy = jax.tree.map(jnp.copy, state)
        return train_chunk(plan, copy, last, enough)[2].total_steps

    return best_time(run, repeats) / (TIMED_EPOCHS * steps_per_epoch * size)


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="PATTERN", default="*", help="rows whose name matches")
    parser.add_argument("--json", metavar="FILE", help="write the rows there too")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, smaller sizes")
    options = parser.parse_args()
    setup.configure_jax(Config())
    repeats = 1 if options.quick else REPEATS
    sizes = (1, 64) if options.quick else (1, 64, 1024)
    groups = {
        "rollout": lambda: rollout(repeats),
        "orbits": lambda: orbits(min(repeats, 2), sizes),
    }
    rows = []
    for name, measure in groups.items():
        if not fnmatch.fnmatch(name, options.only):
            continue
        for each in measure():
            rows.append(each)
            print(
                f"{each['name']:<14} {each['value']:>12.4g} {each['unit']:<14} "
                f"{each['reference']}: {each['reference_value']:.4g}, ratio {each['ratio']:.3g}",
                flush=True,
            )
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
