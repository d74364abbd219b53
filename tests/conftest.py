"""Tests run in float64; it must be on before the first array."""

import jax

jax.config.update("jax_enable_x64", True)
