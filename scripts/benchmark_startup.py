"""Rows of what happens before the work: imports, help, and compiling."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmark_rows import Row, within
from benchmark_training import prepared

from jaxstepper.training.run import train_chunk

TRAIN = str(Path(__file__).parent / "train.py")
RUN = ["--epochs", "1", "--num-particles", "3", "--num-orbits", "1", "--seed", "0", "-s", "run"]


def startup(repeats: int) -> Iterator[Row]:
    """Processes from their start; the best of some, after one that warms all caches."""
    limits = {
        "import jaxstepper": (["-c", "import jaxstepper"], 1.0),
        "train --help": ([TRAIN, "--help"], 1.5),
        "first epoch, warm": ([TRAIN, *RUN], 6.0),
    }
    for name, (arguments, limit) in limits.items():
        yield within(name, _process_time(arguments, repeats), "s", "limit", limit)
    yield within("compile a training chunk", _compile_time(), "s", "limit", 8.0)


def _process_time(arguments: list[str], repeats: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        # A cache of compiled programs of its own, which the first run fills.
        environment = {**os.environ, "XDG_CACHE_HOME": str(Path(folder) / "cache")}
        times = []
        for each in range(repeats + 1):
            place = Path(folder) / str(each)
            place.mkdir()
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, *arguments],
                cwd=place,
                env=environment,
                check=True,
                capture_output=True,
            )
            times.append(time.perf_counter() - began)
    return min(times[1:])


def _compile_time() -> float:
    plan, state = prepared(num_particles=3)
    lowered = train_chunk.lower(plan, state, np.int32(10), np.int32(50))
    began = time.perf_counter()
    lowered.compile()
    return time.perf_counter() - began
