"""Where a benchmark runs: processor, instruction set, cores, device, load and versions."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "numpy", "rebound", "torch")
# The widest first: flag in /proc/cpuinfo (or of sysctl), and its name.
INSTRUCTIONS = {
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "avx": "AVX",
    "sse4_2": "SSE4.2",
    "sve2": "SVE2",
    "sve": "SVE",
    "asimd": "NEON",
}


def describe(device: str | None = None) -> dict[str, Any]:
    """The machine; `device` is the kind of its accelerator, if that is what is measured."""
    cpu, instructions = _from_text(_processor())
    if kept := re.search(r"--xla_cpu_max_isa=(\w+)", os.environ.get("XLA_FLAGS", "")):
        instructions = f"XLA kept to {kept[1]}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    plural = "cores" if cores != 1 else "core"
    return {
        "name": device or f"{cpu}, {instructions}, {cores} {plural}",
        "cpu": cpu,
        "instructions": instructions,
        "cores": cores,
        "device": device,
        "system": f"{platform.system()} {platform.machine()}",
    }


def file_name(machine: dict[str, Any]) -> str:
    """That of its results: its name in lower case, with hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", machine["name"].lower()).strip("-") + ".json"


def versions() -> dict[str, str | None]:
    """Of JAX and of the peers; None for one that is not installed."""

    def of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {package: of(package) for package in PACKAGES}


def load() -> float | None:
    """Programs that ran or waited in the last minute, on average; None where unknown."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _processor() -> str:
    """What the system says of its processor, in lines `name: value`."""
    if platform.system() == "Darwin":
        names = ("brand_string", "features", "leaf7_features", "family", "model")
        keys = [f"machdep.cpu.{name}" for name in names]
        return subprocess.run(["sysctl", *keys], capture_output=True, text=True).stdout
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _from_text(text: str) -> tuple[str, str]:
    """Model and widest instruction set; a model without a number gets those of its family."""
    known: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        # Of many cores, the first.
        known.setdefault(key.strip().removeprefix("machdep.cpu."), value.strip())
    name = known.get("model name") or known.get("brand_string") or platform.processor()
    name = re.sub(r"\((R|TM)\)", "", name).strip() or platform.machine()
    family = known.get("cpu family") or known.get("family") or known.get("CPU architecture")
    model = known.get("model") or known.get("CPU part")
    if not re.search(r"\d", name) and family and model:
        name += f" (family {family}, model {model})"
    flags = " ".join(
        known.get(key, "") for key in ("flags", "Features", "features", "leaf7_features")
    ).lower()
    there = [words for flag, words in INSTRUCTIONS.items() if flag in flags.split()]
    if not there and platform.machine() in ("arm64", "aarch64"):
        there = ["NEON"]
    return name, there[0] if there else platform.machine()
