"""Tests run in float64, and most of their time is compiling programs that run once."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from jaxstepper.runs.jax_setup import cache_dir, keep_programs_whole

# Kernels are emitted as LLVM's IR at once, in one piece: nearly half the time of compiling.
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
START_XLA = "from jaxlib import xla_client; xla_client.make_cpu_client()"
DAYS_KEPT = 7
# Linux allows a process 65530; a small program takes three.
MAPS, MOST_MAPPINGS = Path("/proc/self/maps"), 30_000


def pytest_configure(config):
    """Sets JAX up, for the tests and, through the environment, for the processes they start."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}"
    # The flags are XLA's own affair: a version without them ends the process. Workers inherit them.
    if (
        QUICK not in os.environ.get("XLA_FLAGS", "")
        and not subprocess.run(
            [sys.executable, "-c", START_XLA],
            env={**os.environ, "XLA_FLAGS": flags},
            capture_output=True,
        ).returncode
    ):
        os.environ["XLA_FLAGS"] = flags
    if jax.default_backend() == "cpu":  # programs for others are tested as users run them
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        jax.config.update("jax_disable_most_optimizations", True)
    # Where each operation was written makes every program longer, and nobody looks at it.
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
    jax.config.update("jax_traceback_in_locations_limit", 0)
    # Workers have their cores to themselves: on a busy one, threads of numpy wait for each other.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # It must be on before the first array.
    jax.config.update("jax_enable_x64", True)
    # As commands do, or nothing that is compiled for them serves the library, nor the other way.
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_default_device", jax.local_devices()[0])
    if hasattr(config, "cache"):
        keep_programs(config)
    # Tracing makes objects by the million, nearly all of which die with their last reference.
    gc.set_threshold(50_000, 20, 50)


def pytest_collection_finish():
    """The modules of packages and tests stay: looking through them again would take seconds."""
    gc.freeze()


def keep_programs(config):
    """Compiled programs are kept in pytest's cache, from module to module and from run to run.

    All workers and the commands that they start share them, so that each is compiled once.
    """
    keep_programs_whole()
    os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("programs"))
    if "PYTEST_XDIST_WORKER" not in os.environ:
        for program in cache_dir().glob("*"):
            if program.stat().st_mtime < time.time() - DAYS_KEPT * 24 * 3600:
                program.unlink()
    jax.config.update("jax_compilation_cache_dir", str(cache_dir()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="module", autouse=True)
def programs_are_forgotten():
    """Thousands of compiled programs in one process would use up its memory mappings."""
    yield
    if mappings() > MOST_MAPPINGS:
        jax.clear_caches()


def mappings():
    """How many this process has; where the system does not say so, too many."""
    try:
        return len(MAPS.read_bytes().splitlines())
    except OSError:
        return MOST_MAPPINGS + 1


@pytest.fixture(scope="session")
def sandbox_source(tmp_path_factory):
    """A folder to copy, with all that a command may be pointed at."""
    import sandbox

    folder = tmp_path_factory.mktemp("sandbox")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sandbox.build(folder)
    return folder


@pytest.fixture(autouse=True)
def no_python_is_started_without_the_marker(request, monkeypatch):
    """A test that starts another Python says so with the marker `processes`."""
    if request.node.get_closest_marker("processes"):
        return
    start = subprocess.Popen.__init__

    def refuse_python(self, args, *more, **settings):
        words = args if isinstance(args, list | tuple) else [args]
        if str(words[0]) == sys.executable:
            raise AssertionError("mark this test with `processes`: it starts another Python")
        start(self, args, *more, **settings)

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse_python)
