"""Rules whose steps an external field shortens."""

from dataclasses import field

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.errors import require
from jaxstepper.physics.field_rate import field_time
from jaxstepper.physics.gravity import ExternalField, Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.stepping.rule import STATIC, Number, Rule


class FieldRule(Rule):
    """A rule over pairs of bodies, that must know of the external field of the gravity it is in.

    Attributes:
        external: the field, `gravity.external`; None if there is none.
    """

    external: ExternalField | None = field(default=None, kw_only=True, metadata=STATIC)

    def check_gravity(self, gravity: Gravity, /) -> None:
        check_field(type(self).__name__, self.external, gravity)

    def shortened(self, h: Float[Array, ""], eta: Number, particles: Particles) -> Float[Array, ""]:
        """The shorter of h and eta times the time scale of the field, in the dtype of the state."""
        check_pairs(self.external, particles)
        if self.external is not None:
            h = jnp.minimum(h, eta * field_time(self.external, particles))
        return h.astype(particles.time.dtype)


def check_field(name: str, known: ExternalField | None, gravity: Gravity) -> None:
    """Refuses a rule in a field that it was not made for.

    Raises:
        UserError: it was not.
    """
    require(
        gravity.external in (None, known),
        f"{name} does not see the external field of this gravity; make it with "
        "external=gravity.external, or use fixed",
    )


def check_pairs(external: ExternalField | None, particles: Particles) -> None:
    """Refuses one body that nothing moves.

    Raises:
        UserError: there is one body, and no field.
    """
    require(
        external is not None or particles.mass.shape[0] > 1,
        "one body has no pair to choose a step for; give the rule an external field "
        "(external=gravity.external), or use fixed",
    )
