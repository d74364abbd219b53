"""Everything worth knowing on one card, within eight minutes; `benchmark.py --gpu`.

A process of its own measures, so that what hangs, crashes or runs out of memory loses its own row
alone: the row is recorded with its error, and the next goes on in a new process.
"""

import contextlib
import fnmatch
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, NamedTuple

import benchmark_chip as chip
import benchmark_rollouts as rollouts
import benchmark_training as training
import jax
import jax.numpy as jnp
from benchmark_rows import NO_NUMBER, Row, best_times, faster, within

from jaxstepper.errors import UserError
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.initial_conditions import plummer
from jaxstepper.physics.jerk import acceleration_and_jerk
from jaxstepper.physics.particles import from_table
from jaxstepper.runs.jax_setup import configure_jax
from jaxstepper.settings.config import Config
from jaxstepper.stepping.criteria import DEFAULT_ETA, Aarseth
from jaxstepper.stepping.individual import run_individual
from jaxstepper.stepping.individual_state import evaluations

ROOT = Path(__file__).parent.parent
WORKER = [sys.executable, __file__]
SECONDS_IN_ALL = 470.0
# To import JAX and find the card.
SECONDS_TO_START = 60.0
# What the training of `kepler` takes on two CPU cores, by the head of its configuration.
KEPLER_ON_CPU = 1440.0
KEPLER = ["train", "--config", "scripts/configs/kepler.toml", "--no-compilation-cache"]
SHORT_KEPLER = "--epochs 1 --window-steps 16 --window-iterations 1 --window-batch 2 --num-orbits 4"
FEW_EPOCHS = 6
WORKERS = min(14, os.cpu_count() or 1)
FAST_TESTS = ["-n", str(WORKERS), "tests/physics", "tests/training"]


class Task(NamedTuple):
    """Some rows, and the seconds that each may take.

    Attributes:
        name: that of the row, which a failure is recorded under.
        seconds: after so many without a row, the task has failed.
        measure: yields the rows.
    """

    name: str
    seconds: float
    measure: Callable[[], Iterator[Row]]


def tasks(quick: bool) -> list[Task]:
    """The most telling first."""
    platform, repeats = jax.default_backend(), 1 if quick else 3
    measure: list[tuple[str, float, Callable[[], Iterator[Row]]]] = []
    for dtype in (jnp.float32, jnp.float64):
        for count in (256,) if quick else chip.BODIES["gpu"]:
            for way in chip.ways_to_sum(platform):
                name = f"{way} N={count} {jnp.dtype(dtype).name}"
                direct_sum = partial(chip.direct_sum, repeats, way, count, dtype)
                measure.append((name, 30, direct_sum))
    for count in (1, 16) if quick else (1, 1024, 1_048_576):
        each = partial(rollouts.systems, repeats, (count,))
        measure.append((f"systems B={count}", 45, each))
    widths = {"hidden_dims": (8,)} if quick else {}
    for count in (1, 4) if quick else (1, 1024, 65_536):
        each = partial(training.orbits, repeats, (count,), **widths)
        measure.append((f"orbits {count}", 60, each))
    for count in (64,) if quick else (1024, 4096, 16_384, 65_536):
        each = partial(individual_steps, 1, count)
        measure.append((f"individual N={count}", 45, each))
    measure.append(("kepler, an epoch", 90, partial(epoch_of_kepler, 40, quick)))
    measure.append(("fast tests", 150, partial(fast_tests, 140, quick)))
    measure.append(("train kepler", 360, partial(train_kepler, 350, quick)))
    return [Task(*each) for each in measure]


def individual_steps(repeats: int, count: int) -> Iterator[Row]:
    """Pairs a second where each body has its own step, beside whole passes over all pairs."""
    gravity = Gravity(4 / count)
    p = from_table(plummer(0, count), gravity.acceleration, jnp.float64)
    whole = jax.jit(partial(acceleration_and_jerk, gravity))
    longest = 1 / 32
    ends = []

    def one_block() -> object:
        ends.append(run_individual(Aarseth(DEFAULT_ETA), gravity, p, longest, longest))
        return ends[-1]

    ours, one_pass = best_times(
        repeats, one_block, lambda: whole(p.position, p.velocity, p.mass, p.time)
    )
    evaluated = evaluations(ends[-1])
    at_once = evaluated / count * one_pass.best
    pairs = float(evaluated) * count
    yield faster(f"individual N={count}", pairs, "pairs/s", ours, "whole passes", at_once)


def epoch_of_kepler(seconds: float, quick: bool) -> Iterator[Row]:
    """An epoch of a training, when its programs are compiled, beside one on this machine's CPU."""
    short = SHORT_KEPLER.split() if quick else []

    def fastest(*more: str) -> float:
        with _trained([*short, "--epochs", str(FEW_EPOCHS), *more], seconds) as folder:
            lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            return min(json.loads(line)["epoch_time"] for line in lines)

    times = fastest(), fastest("--device", "cpu")
    cpu = f"on {os.cpu_count()} CPU cores"
    yield within("kepler, an epoch", times[0], "s", cpu, times[1], None)


def train_kepler(seconds: float, quick: bool) -> Iterator[Row]:
    """A training from the start of its process to its end."""
    began = perf_counter()
    with _trained(SHORT_KEPLER.split() if quick else [], seconds):
        took = perf_counter() - began
    yield within("train kepler", took, "s", "two CPU cores", KEPLER_ON_CPU, None)


@contextlib.contextmanager
def _trained(arguments: Sequence[str], seconds: float) -> Iterator[Path]:
    """The folder of a training of `kepler`."""
    with tempfile.TemporaryDirectory() as folder:
        place = ["--checkpoint-dir", folder, "--save-name", "kepler"]
        _python(["-m", "jaxstepper", *KEPLER, *arguments, *place], seconds)
        yield Path(folder) / "kepler"


def fast_tests(seconds: float, quick: bool) -> Iterator[Row]:
    """How many of the fast tests of physics and training pass here."""
    which = ["-n", "0", "tests/physics/test_precision.py"] if quick else FAST_TESTS
    with tempfile.TemporaryDirectory() as folder:
        fast = ["-m", "not slow and not processes", "-o", f"cache_dir={folder}"]
        said = _python(["-m", "pytest", "-q", *fast, *which], seconds)
    passed = float(said.splitlines()[-1].split(" passed")[0].split()[-1])
    yield Row("fast tests", passed, "passed", "all", passed, 1.0)


def _python(arguments: Sequence[str], seconds: float) -> str:
    """What another Python says; raises if it fails or takes too long, with its last words."""
    command = [sys.executable, *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as late:
        last = _last_line((late.stdout or b"").decode())
        raise TimeoutError(f"not at its end after {seconds:.0f} s; it said: {last}") from None
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {_last_line(done.stderr or done.stdout)}")
    return done.stdout


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing"])[-1][:200]


def work(only: str, begin_at: int, quick: bool) -> None:
    """Measures the tasks that match, from one on; says what it does in lines of JSON."""
    configure_jax(Config(compilation_cache=False))
    device = jax.devices()[0]
    kind = None if device.platform == "cpu" else device.device_kind
    chosen = [task for task in tasks(quick) if fnmatch.fnmatch(task.name, only)]
    _say(device=kind, tasks=[(task.name, task.seconds) for task in chosen])
    for task in chosen[begin_at:]:
        try:
            for row in task.measure():
                _say(row=row)
        except Exception as error:
            _say(row=failed(task.name, f"{type(error).__name__}: {_last_line(str(error))}"))
        _say(done=task.name)


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def failed(name: str, error: str) -> Row:
    """The row of a task that failed."""
    return Row(name, NO_NUMBER, "", "", NO_NUMBER, NO_NUMBER, error=error)


class Worker:
    """A process that says what it does in lines of JSON; at the end of `with` it is killed."""

    def __init__(self, command: Sequence[str]) -> None:
        # Tests and trainings, processes of their own, need memory of the card too.
        environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                self.lines.put(line)
        self.lines.put(None)

    def say(self, seconds: float) -> dict[str, Any]:
        """What it says next, within so many seconds; or `lost`: why nothing more will come."""
        seconds = max(seconds, 0.0)
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            return {"lost": f"took more than {seconds:.0f} s"}
        if line is None:
            return {"lost": f"the process ended with exit code {self.process.wait()}"}
        return json.loads(line)


def measured(command: Sequence[str], limit: float) -> Iterator[tuple[str | None, Row]]:
    """Rows of the tasks of a worker, each with the kind of the device, within `limit` seconds.

    Args:
        command: starts a worker; it gets the number of the task to begin at as its last argument.
        limit: in all. Tasks that it leaves no time for have rows that say so.
    """
    end, at = monotonic() + limit, 0
    names: list[str] = []
    while True:
        with Worker([*command, str(at)]) as worker:
            hello = worker.say(min(SECONDS_TO_START, end - monotonic()))
            if "lost" in hello and not names:
                raise UserError(f"the benchmark did not start: {hello['lost']}")
            device, budgets = hello.get("device"), dict(hello.get("tasks", []))
            names = names or list(budgets)
            while at < len(names) and "lost" not in hello:
                left = end - monotonic()
                said = worker.say(min(budgets[names[at]], left))
                if "row" in said:
                    yield device, Row(*said["row"])
                elif "done" in said:
                    at += 1
                else:
                    yield device, failed(names[at], said["lost"])
                    at += 1
                    break
        if monotonic() >= end:
            for name in names[at:]:
                yield device, failed(name, f"not begun: {limit:.0f} s were over")
            at = len(names)
        if at == len(names):
            return


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[3]), sys.argv[2] == "quick")
