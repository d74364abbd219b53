"""A rollout that is turned round, for the tests of rules and schemes."""

from functools import partial

import jax
from jax import lax

from jaxstepper.physics.gravity import Gravity
from jaxstepper.stepping.rollout import advance, reverse, start

GRAVITY = Gravity()


@partial(jax.jit, static_argnames="steps")
def there_and_back(rule, particles, steps):
    """The particles after so many steps, and after as many back."""

    def body(rollout, _):
        return advance(rule, GRAVITY, rollout), None

    there = lax.scan(body, start(rule, GRAVITY, particles), length=steps)[0]
    return there.particles, lax.scan(body, reverse(rule, there), length=steps)[0].particles
