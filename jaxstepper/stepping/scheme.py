"""Schemes: how a step is taken, and what it costs. How long it is, a rule says (`rule`)."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, dataclass_transform

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxstepper.physics.diagnostics import barycentric, kinetic_energy
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.hermite import hermite
from jaxstepper.physics.integrators import (
    leapfrog,
    logarithmic_leapfrog,
    logarithmic_leapfrog_to,
)
from jaxstepper.physics.jerk import acceleration_and_jerk
from jaxstepper.physics.pairs import are_few
from jaxstepper.physics.particles import AccelerationFn, Particles
from jaxstepper.physics.reductions import Falls
from jaxstepper.physics.splittings import blanes_moan, chin

Carried = Any
"""A pytree that a scheme carries from step to step, beside the particles."""


@dataclass_transform(frozen_default=True)
class Scheme:
    """Takes steps of the length that a rule chooses; `rule.on(scheme)` puts the two together.

    Every subclass becomes a frozen dataclass. It is part of the compiled program, so its fields
    must be hashable. A scheme of your own needs its order, its cost and a `step`:

        class Euler(Scheme):
            order = 1

            def step(self, carried, particles, dt, gravity): ...

    Attributes:
        order: the error of a given time goes as dt to this power.
        evaluations: of the accelerations of all bodies in a step; a pass for accelerations and
            jerks counts as one.
        evaluations_at_start: likewise before the first step, beside those of the first state.
        irreversible: why steps of -dt do not undo steps of dt; empty if they do.
    """

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 1
    evaluations_at_start: ClassVar[int] = 0
    irreversible: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        dataclass(frozen=True)(cls)

    def init(self, particles: Particles, gravity: Gravity, /) -> Carried:
        """What the scheme carries before the first step."""
        del particles, gravity
        return ()

    def length(
        self, carried: Carried, particles: Particles, asked: Float[Array, ""], gravity: Gravity, /
    ) -> tuple[Float[Array, ""], Carried]:
        """dt of the step that a rule asks for, `[]`: what it asks, unless it counts another time.

        Args:
            carried: what the scheme carries.
            particles: the state.
            asked: what `step_size` of the rule returned, with the sign of the direction of time.
            gravity: what moves the bodies.
        """
        del particles, gravity
        return asked, carried

    def step(
        self, carried: Carried, particles: Particles, dt: Float[Array, ""], gravity: Gravity, /
    ) -> tuple[Particles, Carried]:
        """The state after a step, with its `acceleration`, `time` and `dt`; and what is carried."""
        raise NotImplementedError

    def searched(self, carried: Carried, /) -> Float[Array, ""] | int:
        """Evaluations of forces so far beyond those of every step, `[]`."""
        del carried
        return 0

    def watching(self, falls: Falls | None, /) -> "Scheme":
        """The scheme that carries `Fallen`, for a rule that asks for it, if it can."""
        del falls
        return self


@partial(jax.tree_util.register_dataclass, data_fields=["of_bodies"], meta_fields=["softening"])
@dataclass(frozen=True)
class Fallen:
    """How fast bodies fall together, found out in the pass for their accelerations.

    Attributes:
        of_bodies: `[N]`, what the rule asked for of the pairs of every body.
        softening: of the force, and so of these.
    """

    of_bodies: Float[Array, "*B N"]
    softening: float


class _OfAccelerations(Scheme):
    """A scheme that needs accelerations alone, the last of a step at the state after it.

    It carries nothing but what the rule asks for.

    Attributes:
        falls: that, for more than a few bodies.
    """

    falls: Falls | None = None

    def watching(self, falls: Falls | None, /) -> Scheme:
        return self if falls == self.falls else replace(self, falls=falls)

    def init(self, particles: Particles, gravity: Gravity, /) -> Carried:
        p = particles
        if self.falls is None or are_few(p):
            return ()
        found = gravity.acceleration_and_falls(p.position, p.mass, p.time, self.falls)[1]
        return Fallen(found, gravity.softening)

    @staticmethod
    def method(
        particles: Particles, dt: Float[Array, ""] | float, acceleration: AccelerationFn
    ) -> Particles:
        """The state after a step of size dt."""
        raise NotImplementedError

    def step(
        self, carried: Carried, particles: Particles, dt: Float[Array, ""], gravity: Gravity, /
    ) -> tuple[Particles, Carried]:
        falls = self.falls
        if falls is None or are_few(particles):
            return self.method(particles, dt, gravity.acceleration), carried
        found = []

        def acceleration(position: Array, mass: Array, time: Array) -> Array:
            a, of_bodies = gravity.acceleration_and_falls(position, mass, time, falls)
            found.append(of_bodies)
            return a

        after = self.method(particles, dt, acceleration)
        return after, Fallen(found[-1], gravity.softening)


class Leapfrog(_OfAccelerations):
    """The kick-drift-kick leapfrog: second order, one evaluation; `physics.integrators`."""

    method = staticmethod(leapfrog)


class Chin(_OfAccelerations):
    """Chin's forward splitting 4A: fourth order, three evaluations; `physics.splittings`."""

    order = 4
    evaluations = 3
    method = staticmethod(chin)


class BlanesMoan(_OfAccelerations):
    """Blanes and Moan's splitting BM4: fourth order, six evaluations; `physics.splittings`."""

    order = 4
    evaluations = 6
    method = staticmethod(blanes_moan)


class Hermite(Scheme):
    """The predictor-corrector of Hermite: fourth order, one evaluation of forces and jerks.

    It carries the jerks `[N, D]`; `physics.hermite`.
    """

    order = 4
    evaluations_at_start = 1
    irreversible = "Hermite's predictor and corrector are not symmetric in time"

    def init(self, particles: Particles, gravity: Gravity, /) -> Carried:
        p = particles
        return acceleration_and_jerk(gravity, p.position, p.velocity, p.mass, p.time)[1]

    def step(
        self, carried: Carried, particles: Particles, dt: Float[Array, ""], gravity: Gravity, /
    ) -> tuple[Particles, Carried]:
        return hermite(particles, carried, dt, gravity)


class Logarithmic(Scheme):
    """The leapfrog of the logarithmic Hamiltonian; `physics.integrators.logarithmic_leapfrog`.

    Rules on it say h, the step of the transformed time. How long a step takes is known only after
    it, so `length` takes it, with its one evaluation of forces, and `step` hands it out. A step
    that is shortened to end at a given time is searched for, with some ten evaluations more, which
    are counted.
    """

    def init(self, particles: Particles, gravity: Gravity, /) -> Carried:
        p = particles
        potential = gravity.potential_energy(p.position, p.mass, p.time)
        binding = -(kinetic_energy(barycentric(p, gravity)) + potential)
        zero = jnp.zeros_like(p.time)
        return binding, zero, p, zero

    def length(
        self, carried: Carried, particles: Particles, asked: Float[Array, ""], gravity: Gravity, /
    ) -> tuple[Float[Array, ""], Carried]:
        binding, *_, searched = carried
        end = logarithmic_leapfrog(particles, asked, binding, gravity)
        return end.dt, (binding, asked, end, searched)

    def step(
        self, carried: Carried, particles: Particles, dt: Float[Array, ""], gravity: Gravity, /
    ) -> tuple[Particles, Carried]:
        binding, h, end, searched = carried
        dt = jnp.asarray(dt, end.dt.dtype)
        cut, tries = logarithmic_leapfrog_to(particles, dt, (h, end), binding, gravity)
        after = jax.tree.map(lambda x, y: jnp.where(dt == end.dt, x, y), end, cut)
        return after, (binding, h, end, searched + tries)

    def searched(self, carried: Carried, /) -> Float[Array, ""] | int:
        return carried[-1]


BY_NAME: dict[str, Scheme] = {
    "leapfrog": Leapfrog(),
    "chin": Chin(),
    "bm4": BlanesMoan(),
    "hermite": Hermite(),
    "logarithmic": Logarithmic(),
}
"""The schemes, by their names on the command line."""


def name_of(scheme: Scheme) -> str:
    """The name of a scheme: that of the command line, or of its class."""
    names = [name for name, known in BY_NAME.items() if known == scheme]
    return names[0] if names else type(scheme).__name__
