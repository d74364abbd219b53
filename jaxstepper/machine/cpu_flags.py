"""Flags with which XLA makes faster programs for a CPU.

Loops over the steps of a few bodies become one piece of machine code. XLA calls every operation of
a loop's body by itself, which takes longer than a few bodies' forces, unless the loop touches so
few bytes that it compiles the whole of it as one function. Its limit of 1 kB holds three bodies
with a constant dt, but no rule, no clock and no watch on the energy.

Sums over pairs use vectors of 512 bits where there is AVX-512. XLA uses half of them, because the
first chips that had them slowed down.
"""

import os
from collections.abc import MutableMapping

# Metadata of packages say it, too, but importing them takes four times as long as all else here.
from jaxlib.version import __version__ as jaxlib_version

OPTIONS = "xla_backend_extra_options"
LIMIT = "xla_cpu_small_while_loop_byte_threshold"
# Larger loops gain more from XLA's vectors and threads than from being one function.
BYTES = 262_144

WIDTH, BITS = "xla_cpu_prefer_vector_width", 512
# A flag that XLA does not know ends the process, so newer versions go without until they are tried.
TRIED_BELOW = (0, 12)


def set_flags(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets them; XLA reads them with its first program, and a user's own come first."""
    added = {OPTIONS: f"{LIMIT}={BYTES}"}
    if tuple(int(part) for part in jaxlib_version.split(".")[:2]) < TRIED_BELOW:
        added[WIDTH] = str(BITS)
    flags = environment.get("XLA_FLAGS", "")
    own = [f"--{name}={value}" for name, value in added.items() if name not in flags]
    environment["XLA_FLAGS"] = " ".join([flags, *own]).strip()
