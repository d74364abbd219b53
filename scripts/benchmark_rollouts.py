"""Rows of rollouts: constant and learned dt, one system and many, and how cost grows."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_rows import NO_NUMBER, Row, Timing, best_times, faster, matmul_work, within
from jax import lax

from jaxstepper.network.distilled import distilled
from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.learned import LearnedRule
from jaxstepper.network.step_network import StepNetwork, init_variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import kepler_batch, plummer, random_batch
from jaxstepper.physics.particles import Particles, from_table
from jaxstepper.runs.models import load_rule
from jaxstepper.stepping.literature import free_fall
from jaxstepper.stepping.rollout import (
    MOST_STEPS,
    Limits,
    Rollout,
    run_steps,
    run_systems,
    run_until,
    start,
)
from jaxstepper.stepping.rule import fixed, symmetrized
from jaxstepper.stepping.scheme import BlanesMoan, Chin, Leapfrog
from jaxstepper.stepping.watch import Watch, watch_all_on, watch_of, watch_on

DT = 1e-3
GRAVITY = Gravity(0.05)
# Systems that rebound runs one by one; for more, its time is as many times longer.
MOST_FOR_PEER = 4096
# Bodies: steps in one timed run, and the goal against rebound.
ROLLOUTS = {3: (20_000, 1.2), 16: (5_000, 1.2), 64: (2_000, 1.8), 1024: (20, 1.5), 4096: (2, 1.5)}
# The trained rules of pairs, and what each steps with.
TRAINED = {"kepler": Leapfrog(), "kepler_chin": Chin(), "kepler_bm4": BlanesMoan()}


def tables_of(systems: int, bodies: int, dim: int = 2) -> np.ndarray:
    """Random bodies of total mass 1, `[B, N, 1 + 2 D]`."""
    return random_batch(0, systems, bodies, dim, 1.0 / bodies, 1.0, 0.5)


def starts(tables: np.ndarray) -> Particles:
    """Their states, `[B]`."""
    start = jax.vmap(lambda table: from_table(table, GRAVITY.acceleration, jnp.float64))
    return start(jnp.asarray(tables))


def one(particles: Particles) -> Particles:
    """The first of some systems."""
    return jax.tree.map(lambda x: x[0], particles)


def rebound_work(tables: np.ndarray, steps: int) -> Callable[[], object] | None:
    """Rebound's leapfrog for the same steps, one system after the other; None without rebound."""
    try:
        import rebound
    except ImportError:
        return None

    def simulation(table: np.ndarray) -> "rebound.Simulation":
        made = rebound.Simulation()
        made.integrator, made.dt, made.softening = "leapfrog", DT, GRAVITY.softening
        dim = (table.shape[1] - 1) // 2
        for body in table:
            x, v = (np.pad(part, (0, 3 - dim)) for part in np.split(body[1:], 2))
            made.add(m=body[0], x=x[0], y=x[1], z=x[2], vx=v[0], vy=v[1], vz=v[2])
        return made

    simulations = [simulation(table) for table in tables]

    def work() -> None:
        for each in simulations:
            each.steps(steps)

    return work


def against_rebound(
    repeats: int, ours: Callable[[], object], tables: np.ndarray, steps: int
) -> tuple[Timing, float]:
    """Our timing, and rebound's seconds."""
    peer = rebound_work(tables, steps)
    if peer is None:
        return best_times(repeats, ours)[0], NO_NUMBER
    our_time, theirs = best_times(repeats, ours, peer)
    return our_time, theirs.best


def rollouts(repeats: int, bodies: tuple[int, ...]) -> Iterator[Row]:
    """Steps per second of a constant dt, and the memory they take."""
    for count in bodies:
        steps, goal = ROLLOUTS[count]
        tables = tables_of(1, count, 2 if count == 3 else 3)
        start = one(starts(tables))

        def work(start: Particles = start, steps: int = steps) -> object:
            return run_steps(fixed(DT), GRAVITY, start, steps)

        ours, theirs = against_rebound(repeats, work, tables, steps)
        yield faster(f"rollout N={count}", steps, "steps/s", ours, "rebound leapfrog", theirs, goal)
    compiled = run_steps.lower(fixed(DT), GRAVITY, start, steps).compile()
    scratch = compiled.memory_analysis().temp_size_in_bytes / 8 / count
    yield within(f"memory N={count}", scratch, "numbers/body", "a row of all pairs", count, 2.0)


def systems(repeats: int, counts: tuple[int, ...]) -> Iterator[Row]:
    """System-steps per second of many systems of three bodies at once."""
    steps = 200
    for count in counts:
        tables = tables_of(count, 3)
        particles = starts(tables)
        for_peer = tables[:MOST_FOR_PEER]

        def work(particles: Particles = particles) -> object:
            return run_systems(fixed(DT), GRAVITY, particles, steps)

        ours, theirs = against_rebound(repeats, work, for_peer, steps)
        theirs *= count / len(for_peer)
        name, unit, goal = f"systems B={count}", "system-steps/s", 4.0 if count > 1 else None
        yield faster(name, count * steps, unit, ours, "rebound, one by one", theirs, goal)
        limits = Limits(jnp.full(count, jnp.inf), jnp.full(count, steps, jnp.int32))
        (ours,) = best_times(repeats, partial(_watched_systems, particles, limits))
        name = f"watched {name}"
        yield faster(name, count * steps, unit, ours, "rebound, one by one", theirs, None)


def clocks(repeats: int, bodies: tuple[int, ...]) -> Iterator[Row]:
    """Steps per second with a clock that loses none of them, and with the energy watched too."""
    for count in bodies:
        steps, _ = ROLLOUTS[count]
        begin = one(starts(tables_of(1, count, 2 if count == 3 else 3)))
        limits = Limits(steps=jnp.asarray(steps))
        plain, timed, watched = best_times(
            repeats,
            partial(run_steps, fixed(DT), GRAVITY, begin, steps),
            partial(run_until, fixed(DT), GRAVITY, begin, limits),
            partial(_watched, begin, limits),
        )
        for name, ours in (("clock", timed), ("watch", watched)):
            yield faster(f"{name} N={count}", steps, "steps/s", ours, "plain steps", plain.best)


@jax.jit
def _watched(begin: Particles, limits: Limits) -> tuple[Rollout, Watch]:
    """As `simulate` rolls out."""
    first = start(fixed(DT), GRAVITY, begin, limits.time)
    return watch_on(fixed(DT), GRAVITY, first, watch_of(GRAVITY, begin), limits, MOST_STEPS)


@jax.jit
def _watched_systems(begin: Particles, limits: Limits) -> tuple[Rollout, Watch]:
    """As `simulate` rolls out many systems."""
    first = jax.vmap(lambda each: start(fixed(DT), GRAVITY, each, jnp.inf))(begin)
    watches = jax.vmap(partial(watch_of, GRAVITY))(begin)
    return watch_all_on(fixed(DT), GRAVITY, first, watches, limits, MOST_STEPS)


def learned_steps(repeats: int, many: int) -> Iterator[Row]:
    """Rollouts whose dt the default network chooses."""
    network, features = StepNetwork(), FeatureSpec("basic", 0, GRAVITY.softening)
    variables = init_variables(network, jax.random.PRNGKey(0), features.size)
    controller = LearnedRule(network, variables, features, GRAVITY)
    steps = 50
    particles = starts(tables_of(many, 3))
    alone = one(particles)

    @jax.jit
    def forwards(variables: dict, inputs: jax.Array) -> jax.Array:
        """Passes that depend on one another, as those of a rollout do."""

        def body(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return x + network.apply(variables, x)[0], None

        return lax.scan(body, inputs, length=steps)[0]

    inputs = jnp.ones((features.size,), jnp.float64)
    ours, passes = best_times(
        repeats,
        lambda: run_steps(controller, GRAVITY, alone, steps),
        lambda: forwards(variables, inputs),
    )
    name, reference = "learned dt, one system", "forward passes"
    yield faster(name, steps, "steps/s", ours, reference, passes.best, 1 / 1.5)

    product, operations = matmul_work(many)
    ours, peak = best_times(
        repeats, lambda: run_systems(controller, GRAVITY, particles, steps), product
    )
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 2]
    needed = 2.0 * many * steps * sum(kernel.size for kernel in kernels)
    floor = needed / (operations / peak.best)
    name, unit = f"learned dt, B={many}", "system-steps/s"
    yield faster(name, many * steps, unit, ours, "matmul peak", floor, 1 / 1.5)


def trained_pairs(repeats: int, many: int) -> Iterator[Row]:
    """Steps of the trained rules of pairs, as networks and distilled, against free fall's."""
    tables = jnp.asarray(kepler_batch(0, many, 0.1, 0.95, 0.5, 2.0, 0.5, 2))
    gravity = Gravity()
    pairs = jax.vmap(lambda table: from_table(table, gravity.acceleration, jnp.float64))(tables)
    for model, scheme in TRAINED.items():
        network = load_rule(model, gravity)
        rules = (free_fall(0.02).on(scheme), network, distilled(network))
        for count, steps in ((1, 4000), (many, 400)):
            start = one(pairs) if count == 1 else pairs
            run = run_steps if count == 1 else run_systems
            works = [partial(run, symmetrized(rule), gravity, start, steps) for rule in rules]
            free, *ours = best_times(repeats, *works)
            for form, timing in zip(("", ", distilled"), ours, strict=True):
                name, unit = f"{model} B={count}{form}", "system-steps/s"
                yield faster(name, count * steps, unit, timing, "free fall", free.best)


def clusters(repeats: int, bodies: tuple[int, ...], many: int) -> Iterator[Row]:
    """Steps of free fall and of the trained rule of clusters, in one sphere and in many at once."""
    gravity = Gravity(0.01)
    plain, free = fixed(1e-4), free_fall(0.01, gravity.softening)
    rules = (plain, free, load_rule("plummer", gravity))
    together = jax.vmap(run_steps, (None, None, 0, None))
    for count in bodies:
        tables = jnp.asarray([plummer(seed, count) for seed in range(many)])
        spheres = jax.vmap(lambda table: from_table(table, gravity.acceleration))(tables)
        steps = max(2, 2_000_000 // count**2)
        works = [partial(run_steps, rule, gravity, one(spheres), steps) for rule in rules]
        fixed_dt, fallen, ours = best_times(repeats, *works)
        yield faster(f"free fall N={count}", steps, "steps/s", fallen, "fixed dt", fixed_dt.best)
        yield faster(f"plummer N={count}", steps, "steps/s", ours, "free fall", fallen.best)
        few = max(2, steps // many)
        works = [partial(together, rule, gravity, spheres, few) for rule in rules[1:]]
        fallen, ours = best_times(repeats, *works)
        name, work = f"plummer N={count} B={many}", many * few
        yield faster(name, work, "system-steps/s", ours, "free fall", fallen.best)


def growth(repeats: int, quick: bool) -> Iterator[Row]:
    """Cost of a unit of work against size; the reference is the smallest size."""
    bodies = (3, 16, 64, 256) if quick else (3, 16, 64, 256, 1024, 4096)
    first = NO_NUMBER
    for count in bodies:
        steps = max(2, min(20_000, 10_000_000 // count**2))
        start = one(starts(tables_of(1, count, 3)))
        (ours,) = best_times(repeats, lambda s=start, n=steps: run_steps(fixed(DT), GRAVITY, s, n))
        cost = ours.best / steps / (count * (count - 1))
        first = cost if count == bodies[0] else first
        name = f"growth N={count}"
        yield within(name, cost, "s/pair", f"N={bodies[0]}", first, None)._replace(
            compile_time=ours.compile_time
        )
    many = (1, 16, 256) if quick else (1, 16, 256, 1024, 4096, 16_384)
    for count in many:
        particles = starts(tables_of(count, 3))
        (ours,) = best_times(repeats, lambda p=particles: run_systems(fixed(DT), GRAVITY, p, 100))
        cost = ours.best / 100 / count
        first = cost if count == 1 else first
        name = f"growth B={count}"
        yield within(name, cost, "s/system-step", "B=1", first, None)._replace(
            compile_time=ours.compile_time
        )
