"""Tests run in float64; it must be on before the first array."""

import jax

jax.config.update("jax_enable_x64", True)
# Most of the tests' time is compiling programs that run once.
jax.config.update("jax_disable_most_optimizations", True)
