"""Sets up JAX for a run: processes, device, precision, compilation cache; and draws its seed."""

import os
import secrets
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jaxstepper.errors import UserError
from jaxstepper.machine import processes
from jaxstepper.settings.config import Config


def join(config: Config, say: Callable[[str], None]) -> None:
    """Joins the processes of the run, if there are several; call it before any other use of JAX.

    If one of them is gone later, this one ends after a line to `say`.
    """
    if config.distributed or config.coordinator is not None:
        who = config.coordinator, config.num_processes, config.process_id
        processes.join(*who, config.join_timeout, say)


def configure_jax(config: Config) -> Config:
    """Sets device and precision of this process; call it before the first array.

    Returns the config with the dtype in use: a TPU has no float64.

    Raises:
        UserError: there is no such device.
    """
    jax.config.update("jax_enable_x64", config.dtype == "float64")
    jax.config.update("jax_debug_nans", config.detect_anomaly)
    precision = "tensorfloat32" if config.tf32 else "highest"
    jax.config.update("jax_default_matmul_precision", precision)
    if config.compilation_cache:
        keep_programs_whole()
        jax.config.update("jax_compilation_cache_dir", str(cache_dir()))
        # Small programs too: compiling dozens of them takes most of the start of a run.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    kind = {"cuda": "gpu"}.get(config.device, config.device)
    if kind == "cpu":
        # Then JAX does not even initialise other devices.
        jax.config.update("jax_platforms", "cpu")
    try:
        device = jax.local_devices(backend=None if kind == "auto" else kind)[0]
    except RuntimeError as error:
        present = ", ".join(sorted({each.platform for each in jax.devices()}))
        raise UserError(
            f"--device {config.device}: JAX sees no such device here, only {present}; install "
            "JAX for it (for NVIDIA: pip install 'jax[cuda13]') or use --device auto"
        ) from error
    jax.config.update("jax_default_device", device)
    if device.platform == "tpu" and config.dtype == "float64":
        warnings.warn("a TPU has no float64; this run uses float32", stacklevel=2)
        jax.config.update("jax_enable_x64", False)
        return replace(config, dtype="float32")
    return config


def keep_programs_whole() -> None:
    """Lets a compiled program appear in the cache when it is whole.

    JAX writes it in place, so that another process, or all later ones after a kill, would meet half
    of a program, with a warning each time.
    """
    try:
        from jax._src.lru_cache import LRUCache
    except ImportError:
        return  # this JAX keeps its programs otherwise
    put = LRUCache.put
    if put.__name__ == "put_whole":
        return

    def put_whole(cache: Any, key: str, value: bytes) -> None:
        if cache.eviction_enabled:  # then JAX locks the cache
            return put(cache, key, value)
        path = Path(cache.path) / f"{key}-cache"
        beside = path.with_name(f".{key[-40:]}.{os.getpid()}.{threading.get_ident()}")
        try:
            if not path.exists():
                beside.write_bytes(value)
                beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    LRUCache.put = put_whole  # type: ignore[method-assign,assignment]


def cache_dir() -> Path:
    """Where this user's compiled programs are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jaxstepper" / "compiled"


def choose_seed(config: Config) -> Config:
    """The config with a seed, drawn if it has none."""
    if config.seed is not None:
        return config
    return replace(config, seed=processes.from_main(secrets.randbits(32)))
