"""Inverse roots by multiplication alone, for sums over pairs on a CPU.

A processor divides and takes roots several times more slowly than it multiplies, and XLA leaves
loops with either in scalars unless the processor has AVX-512. Shifting the bits of x gives
1 / sqrt(x) to 3.5 %, one polynomial of second order brings that to 2.5e-5, and one step of
Householder's method of fourth order to rounding: 11 operations beside the shift. Source of the
shift: Lomont 2003.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Half of it, in place of the exponent of x, is the exponent of the root.
_MAGIC = 0x5FE6EB50C7B537A9
# The polynomial in 1 - x y^2 whose largest relative error is smallest, for y within 3.5 %.
_FIRST, _SECOND = 0.50109594, 0.37550236


@jax.custom_jvp
def inverse_root(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x^(-1/2) to rounding, and 0 where x = 0; x is at least 0 and finite."""
    if x.dtype != jnp.float64:
        return _by_division(x)
    y = _guess(x)
    e = 1 - x * (y * y)
    return jnp.where(x > 0, y + y * e * (0.5 + e * (0.375 + e * 0.3125)), 0.0)


@jax.custom_jvp
def inverse_cube(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x^(-3/2) to rounding, and 0 where x = 0; x is at least 0 and finite."""
    if x.dtype != jnp.float64:
        y = _by_division(x)
        return y * y * y
    y = _guess(x)
    square = y * y
    e, cube = 1 - x * square, y * square
    return jnp.where(x > 0, cube + cube * e * (1.5 + e * (1.875 + e * 2.1875)), 0.0)


@inverse_root.defjvp
def _slope_of_root(x: tuple[Array], change: tuple[Array]) -> tuple[Array, Array]:
    y = inverse_root(*x)
    return y, -0.5 * y * y * y * change[0]


@inverse_cube.defjvp
def _slope_of_cube(x: tuple[Array], change: tuple[Array]) -> tuple[Array, Array]:
    y = inverse_root(*x)
    square = y * y
    cube = y * square
    return cube, -1.5 * cube * square * change[0]


def _by_division(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """XLA has a fast root of single precision."""
    return jnp.where(x > 0, 1 / jnp.sqrt(x), 0.0)


def _guess(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """1 / sqrt(x) within 2.5e-5."""
    half = lax.shift_right_logical(lax.bitcast_convert_type(x, jnp.int64), jnp.int64(1))
    y = lax.bitcast_convert_type(jnp.int64(_MAGIC) - half, x.dtype)
    e = 1 - x * (y * y)
    return y + y * e * (_FIRST + _SECOND * e)
