"""Measures what jaxstepper takes for its work, as ratios within one run.

    python scripts/benchmark.py [--only PATTERN] [--gpu] [--json FILE] [--plot FILE] [--quick]

PATTERN is a group (rollouts, systems, clock, learned, trained, clusters, retrain, replay, orbits,
chip, startup, growth) or matches names of rows. Of a row, `ratio` says how many times better than
the reference we are, and a ratio >= goal is good. Times are the best of some runs, in turns with
those of the reference; compile time is in a column of its own, and in no other figure. On a GPU,
systems, orbits and chip go to larger sizes. Peers that are not installed (the packages `rebound`
and `torch`) leave NaN.

Every row goes to the file of the machine in scripts/benchmarks, in the place of the row of its
name, with the load and the versions it was measured with; from these files
scripts/benchmark_tables.py makes the table of the README. With --quick no file is written unless
--json names one.

--gpu measures everything worth knowing on one card within eight minutes, the most telling first
(`tasks` in benchmark_gpu.py); with --quick, all of that in small on any machine.

What bounds each from below:

rollouts: leapfrog with a constant dt, against rebound's in C on one core. Three bodies: the chain
    of dependent operations in a step, some 40 ns. Many: per pair two Newton iterations of a
    reciprocal square root and some 20 other operations, four pairs at a time. `memory` is the
    scratch memory, which a matrix of all pairs would make grow by N numbers a body.
systems: independent systems of three bodies. The same arithmetic, with full vectors; memory
    bandwidth where the states outgrow the caches. The same with an exact clock and the energy
    watched at every step, as in `simulate`.
clock: the same steps in rollouts that lose none of them from their time and stop where they lead
    nowhere (`run_until`), and in those of `simulate`, which also watch the energy: at every step
    up to 64 bodies, at every sixteenth beyond. A watched step forms its pairs twice.
learned: rollouts whose dt the default network chooses. One system: reading the network's weights
    (11 MB) from cache or memory at every step. Many: the network's matrix products, at the rate
    that one large product reaches on this machine.
trained: steps of one pair and of 64 in a batch, of the shipped rules and of what they are distilled
    to. A ratio below the evaluations that a rule saves costs time at equal error: the force of a
    pair takes some ten nanoseconds, less than any network.
clusters: steps in Plummer spheres, of free fall against a constant dt, and of the shipped `plummer`
    against free fall. The rates of free fall come out of the pass for forces; the network asks
    about the bodies that fall fastest, whose encounters are a few rows of pairs more.
retrain: a failed attempt of phase 1, three bodies. The memory traffic of Adam: weights and two
    moments are read and written, and the gradient is read, 7 x 8 bytes a weight. XLA's loops on a
    CPU have one output each, so that both moments and the weights read what they share again: 10
    numbers a weight. The gradient is formed on the fly. The network forwards and backwards reads
    the weights twice more, and Adam's square root and division take as long as a third of it all.
replay: an iteration of phase 2 in which every sample fails: the network forwards and backwards,
    three matrix products a layer, then Adam.
orbits: training on B Kepler pairs with the default network: time for one orbit to have one step
    accepted, both phases included, in a run that has found its dt. With one orbit the floor is
    reading the weights for every attempt; with many, the matrix products (`products`).
chip: the direct sum of all accelerations, at 20 operations a pair, beside the multiply-adds that
    the chip does on numbers in registers. A pair's square root and division count as one operation
    each, and cost many. The goal, on a GPU, is a half; there, XLA's sums are measured too.
startup: processes from their start, and compiling a training chunk; there the limit is a promise.
growth: cost of a unit of work against size, without a goal; --plot draws it. The cost of a pair
    falls with N until vectors are full, and that of a system with B; an epoch costs the same
    however many there are.
"""

import argparse
import fnmatch
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import benchmark_chip as chip
import benchmark_gpu as gpu
import benchmark_machine as machine
import benchmark_rollouts as rollouts
import benchmark_startup as startup
import benchmark_training as training
import jax
from benchmark_plot import plot_growth
from benchmark_results import Results
from benchmark_rows import Row

from jaxstepper.errors import UserError
from jaxstepper.runs.jax_setup import configure_jax
from jaxstepper.settings.config import Config


def groups(quick: bool) -> dict[str, Callable[[], Iterator[Row]]]:
    """The measurements, by name."""
    many = 2 if quick else 10
    few = 1 if quick else 3
    return {
        "rollouts": lambda: rollouts.rollouts(many, (3, 64) if quick else (3, 16, 64, 1024, 4096)),
        "systems": lambda: rollouts.systems(many, (256,) if quick else _systems()),
        "clock": lambda: rollouts.clocks(many, (3, 64) if quick else (3, 64, 1024)),
        "learned": lambda: rollouts.learned_steps(many, 64 if quick else 1024),
        "trained": lambda: rollouts.trained_pairs(many, 4 if quick else 64),
        "clusters": lambda: rollouts.clusters(
            many, (64,) if quick else (64, 128, 256), 2 if quick else 16
        ),
        "retrain": lambda: training.retrain(many, 5 if quick else 100),
        "replay": lambda: training.replay(many, 64 if quick else 512),
        "orbits": lambda: training.orbits(few, (1, 64) if quick else _orbits()),
        "chip": lambda: chip.direct_sums(few, quick),
        "startup": lambda: startup.startup(few),
        "growth": lambda: _all_growth(few, quick),
    }


def _systems() -> tuple[int, ...]:
    return (4096,) if jax.default_backend() == "cpu" else (1, 1024, 1_048_576)


def _orbits() -> tuple[int, ...]:
    return (1, 64, 1024) if jax.default_backend() == "cpu" else (1, 1024, 65_536)


def _all_growth(repeats: int, quick: bool) -> Iterator[Row]:
    yield from rollouts.growth(repeats, quick)
    yield from training.growth(repeats, quick)


def line(row: Row) -> str:
    """A line of the table."""
    if row.error:
        return f"{row.name:<30} failed: {row.error}"
    goal = "" if row.goal is None else f"{row.goal:.3g}"
    verdict = "" if row.goal is None else ("good" if row.ratio >= row.goal else "below")
    compiling = "" if row.compile_time != row.compile_time else f"{row.compile_time:.2f}"
    return (
        f"{row.name:<30} {row.value:>10.4g} {row.unit:<15} {row.reference:<27} "
        f"{row.reference_value:>10.4g} {row.ratio:>8.3g} {goal:>6} {verdict:<6} {compiling:>10}"
    )


HEADER = (
    f"{'name':<30} {'value':>10} {'unit':<15} {'reference':<27} "
    f"{'its value':>10} {'ratio':>8} {'goal':>6} {'':<6} {'compiling/s':>10}"
)


def chosen_rows(only: str | None, quick: bool) -> Iterator[Row]:
    """Rows of the groups, or by the names, that were asked for, as they are measured."""
    measurements = groups(quick)
    chosen = fnmatch.filter(measurements, only or "*")
    for name in chosen or measurements:
        for row in measurements[name]():
            if chosen or fnmatch.fnmatch(row.name, only):
                yield row


def rows_of_a_gpu(only: str | None, quick: bool) -> Iterator[tuple[dict, Row]]:
    """The rows of `--gpu`, each with the machine, which this process leaves to another."""
    command = [*gpu.WORKER, only or "*", "quick" if quick else "whole"]
    for device, row in gpu.measured(command, gpu.SECONDS_IN_ALL):
        if device is None and not quick:
            raise UserError("there is no GPU here; --gpu --quick tries all of it in small")
        yield machine.describe(device), row


def rows_of_this_machine(only: str | None, quick: bool) -> Iterator[tuple[dict, Row]]:
    """Likewise, measured by this process."""
    configure_jax(Config(compilation_cache=False))
    device = jax.devices()[0]
    about = machine.describe(None if device.platform == "cpu" else device.device_kind)
    return ((about, row) for row in chosen_rows(only, quick))


def tell(measured: Iterable[tuple[dict, Row]], json: str | None, quick: bool) -> list[Row]:
    """Prints the rows and writes them, each as it comes; the machine comes first."""
    rows: list[Row] = []
    results = None
    for about, row in measured:
        if not rows:
            load = f"load {machine.load()}"
            print(f"{about['name']} ({about['system']}), {load}, {_words(machine.versions())}")
            print(HEADER)
            # What is quick goes to a file only if one is named.
            results = Results(about, Path(json) if json else None) if json or not quick else None
        rows.append(row)
        print(line(row), flush=True)
        if results is not None:
            results.add(row)
    if rows:
        print(f"load at the end {machine.load()}")
    return rows


def _words(versions: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {number}" for name, number in versions.items() if number)


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="PATTERN", help="a group, or rows whose name matches")
    parser.add_argument("--gpu", action="store_true", help="one card, within eight minutes")
    parser.add_argument("--json", metavar="FILE", help="write the rows there, not to the machine's")
    parser.add_argument("--plot", metavar="FILE", help="draw the rows of growth there")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, smaller sizes")
    options = parser.parse_args()
    measure = rows_of_a_gpu if options.gpu else rows_of_this_machine
    try:
        rows = tell(measure(options.only, options.quick), options.json, options.quick)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if not rows:
        print(f"--only {options.only}: no group and no row of this name", file=sys.stderr)
        return 2
    if options.plot:
        plot_growth(rows, Path(options.plot))
    return 1 if any(row.error for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
