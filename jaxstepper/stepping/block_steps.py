"""Steps in powers of two of a longest one, on a common clock.

Times and steps are fractions of a block, which is one longest step; at its end all bodies meet. A
step divides the time at which it begins, so that the bodies due at any time are those with short
steps, and share one evaluation. Fractions are sums of powers of two, which floating-point numbers
add without rounding. Source: McMillan 1986; Makino 1991.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def least_step(dtype: jnp.dtype) -> float:
    """The shortest step that the clock of a block resolves."""
    return float(jnp.finfo(dtype).eps)


def power_of_two_below(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The largest power of two <= x, exactly; 0 below the normal numbers, and infinity stays."""
    bits = jnp.uint64 if x.dtype.itemsize == 8 else jnp.uint32
    exponent = lax.bitcast_convert_type(jnp.asarray(jnp.inf, x.dtype), bits)
    return lax.bitcast_convert_type(lax.bitcast_convert_type(x, bits) & exponent, x.dtype)


def first_step(wanted: Float[Array, "..."]) -> Float[Array, "..."]:
    """The step from the beginning of a block, given the one that is wanted.

    It is at least 4 sqrt(eps), 2^-24 in float64, so that a force can be told from its rounding
    error afterwards: one that happens to be 0, with all its rates, says nothing of the step.
    """
    least = 4 * least_step(wanted.dtype) ** 0.5
    return power_of_two_below(jnp.clip(wanted, least, 1.0))


def next_step(
    step: Float[Array, "..."], wanted: Float[Array, "..."], now: Float[Array, ""]
) -> Float[Array, "..."]:
    """The step from `now` on, after one of `step` that ended there.

    It is halved until it is no longer than wanted, or else doubled once, where the double is no
    longer than wanted, divides the time, and fits into a block.
    """
    double = 2 * step
    fits = (double <= wanted) & (double <= 1) & (now / double == jnp.floor(now / double))
    return jnp.where(fits, double, jnp.minimum(step, power_of_two_below(wanted)))
