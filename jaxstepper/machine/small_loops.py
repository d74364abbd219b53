"""Loops over the steps of a few bodies, as one piece of machine code on a CPU.

XLA calls every operation of a loop's body by itself, which takes longer than a few bodies' forces,
unless the loop touches so few bytes that it compiles the whole of it as one function. Its limit of
1 kB holds three bodies with a constant dt, but no rule, no clock and no watch on the energy.
"""

import os
from collections.abc import MutableMapping

OPTIONS = "xla_backend_extra_options"
LIMIT = "xla_cpu_small_while_loop_byte_threshold"
# Larger loops gain more from XLA's vectors and threads than from being one function.
BYTES = 262_144


def compile_whole(environment: MutableMapping[str, str] = os.environ) -> None:
    """Asks XLA to; it reads these flags with its first program, and a user's own come first."""
    flags = environment.get("XLA_FLAGS", "")
    if OPTIONS not in flags:
        environment["XLA_FLAGS"] = f"{flags} --{OPTIONS}={LIMIT}={BYTES}".strip()
