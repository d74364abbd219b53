"""Fits the weights of the criterion `fitted` to Plummer spheres, by an evolution strategy.

    python scripts/fit_criterion.py           # prints the weights every generation
    python scripts/fit_criterion.py --judge   # those of the package against Aarseth's

Steps in powers of two have no gradient worth the name, so the weights are drawn, rolled out, ranked
and moved: CMA-ES. What is ranked is log evaluations + log error / 5.1 over 24 spheres of 64 bodies
at two etas, since the error goes about as the evaluations to the power -5.1. The weights of the
package took 124 generations, seven minutes on two busy cores of an AMD EPYC (family 26).
Source: Hansen 2016, The CMA evolution strategy: a tutorial.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxstepper.physics.diagnostics import (
    internal_energy,
    reference_energy,
    relative_energy_error,
)
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import plummer_batch
from jaxstepper.physics.particles import Particles, from_table
from jaxstepper.stepping.criteria import WEIGHTS, Aarseth, Criterion, Fitted
from jaxstepper.stepping.individual import start, turn
from jaxstepper.stepping.individual_state import at_common_time, is_running

GRAVITY, LONGEST = Gravity(0.01), 0.125
SLOPE, ETAS = 5.1, (0.2, 0.06)
TRAINED_ON, HELD_OUT = 100, 3000  # seeds


def spheres(seed: int, count: int, bodies: int) -> Particles:
    """Plummer spheres, stacked."""
    states = [from_table(t, GRAVITY.acceleration) for t in plummer_batch(seed, count, bodies)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@partial(jax.jit, static_argnames="time")
def roll_out(criterion: Criterion, many: Particles, time: float) -> tuple[jax.Array, jax.Array]:
    """Evaluations a unit of time, and the largest energy error, of each system `[B]`."""

    def of_one(first: Particles) -> tuple[jax.Array, jax.Array]:
        energy = reference_energy(first, GRAVITY)

        def block(carry, _):
            state, worst = carry
            state = lax.while_loop(
                lambda now: is_running(now) & (now.block == state.block),
                lambda now: turn(criterion, GRAVITY, now),
                state,
            )
            now = internal_energy(at_common_time(state), GRAVITY)
            return (state, jnp.maximum(worst, relative_energy_error(now, energy))), None

        begin = (start(criterion, GRAVITY, first, time, LONGEST), jnp.zeros_like(first.time))
        (end, worst), _ = lax.scan(block, begin, length=round(time / LONGEST))
        return end.evaluated[1] / first.mass.shape[0] / time, worst

    return lax.map(of_one, many)


def score(weights: np.ndarray, many: Particles) -> float:
    """What is ranked; the smaller the better."""
    ends = [roll_out(Fitted(eta, jnp.asarray(weights)), many, 1.0) for eta in ETAS]
    return float(np.mean([np.log(work) + np.log(error) / SLOPE for work, error in ends]))


def fit(generations: int, population: int = 12) -> None:
    """CMA-ES from Aarseth's criterion; prints the mean of every generation."""
    many, draw = spheres(TRAINED_ON, 24, 64), np.random.default_rng(0)
    n, parents = len(WEIGHTS), population // 2
    share = np.log(parents + 0.5) - np.log(np.arange(1, parents + 1))
    share /= share.sum()
    mass = 1 / np.sum(share**2)
    c_path, c_sigma = (4 + mass / n) / (n + 4 + 2 * mass / n), (mass + 2) / (n + mass + 5)
    c_one = 2 / ((n + 1.3) ** 2 + mass)
    c_many = min(1 - c_one, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
    damping = 1 + c_sigma + 2 * max(0, np.sqrt((mass - 1) / (n + 1)) - 1)
    expected = np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2))
    mean, sigma, covariance = np.zeros(n), 0.3, np.eye(n)
    path, path_sigma = np.zeros(n), np.zeros(n)
    for generation in range(generations):
        root = np.linalg.cholesky(covariance)
        moves = draw.normal(size=(population, n)) @ root.T
        order = np.argsort([score(mean + sigma * move, many) for move in moves])
        best = moves[order[:parents]]
        move = share @ best
        mean = mean + sigma * move
        unit = np.linalg.solve(root, move)
        path_sigma = (1 - c_sigma) * path_sigma + np.sqrt(c_sigma * (2 - c_sigma) * mass) * unit
        grown = np.linalg.norm(path_sigma) / np.sqrt(1 - (1 - c_sigma) ** (2 * generation + 2))
        moving = grown < (1.4 + 2 / (n + 1)) * expected
        path = (1 - c_path) * path + moving * np.sqrt(c_path * (2 - c_path) * mass) * move
        covariance = (1 - c_one - c_many) * covariance + c_one * np.outer(path, path)
        covariance += c_many * (share[:, None] * best).T @ best
        sigma *= np.exp(c_sigma / damping * (np.linalg.norm(path_sigma) / expected - 1))
        print(generation, f"{score(mean, many):.4f}", np.round(mean, 3).tolist(), flush=True)


def judge(bodies: int, count: int, time: float) -> None:
    """Ratios of evaluations at equal error to Aarseth's, on spheres that were held out."""
    many, draw = spheres(HELD_OUT, count, bodies), np.random.default_rng(1)
    etas = np.geomspace(0.4, 0.008, 9)
    curves = [
        [roll_out(make(eta), many, time) for eta in etas]
        for make in (Aarseth, lambda eta: Fitted(eta, jnp.asarray(WEIGHTS)))
    ]
    for tolerance in (1e-4, 1e-5, 1e-6):
        needed = []
        for curve in curves:
            work, error = (np.log(np.array(part)) for part in zip(*curve, strict=True))
            off = error - np.log(tolerance)
            # A power law near the tolerance.
            near = np.exp(-0.5 * (off / 2.5) ** 2)
            fits = [np.polyfit(off[:, i], work[:, i], 1, w=near[:, i])[1] for i in range(count)]
            needed.append(np.array(fits))
        ratio = needed[1] - needed[0]
        means = [draw.choice(ratio, count).mean() for _ in range(4000)]
        low, high = np.exp(np.quantile(means, [0.025, 0.975]))
        aarseth, fitted = (np.exp(np.median(each)) for each in needed)
        print(
            f"N = {bodies}, error {tolerance:g}: {aarseth:.1f} -> {fitted:.1f} evaluations a unit "
            f"of time, ratio {np.exp(ratio.mean()):.3f} [{low:.3f}, {high:.3f}]",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generations", type=int, default=124)
    parser.add_argument("--judge", action="store_true", help="only judge the package's weights")
    parser.add_argument("--bodies", type=int, default=64, help="of the spheres to judge on")
    parser.add_argument("--spheres", type=int, default=24, help="to judge on")
    parser.add_argument("--time", type=float, default=3.0, help="to judge after")
    asked = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if asked.judge:
        judge(asked.bodies, asked.spheres, asked.time)
    else:
        fit(asked.generations)
