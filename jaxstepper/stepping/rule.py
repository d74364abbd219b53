"""Step-size rules: what a rule is, and how one rule is made from another.

`literature` holds the rules of the literature, and the wing `network` the learned ones. This module
holds the base class, the constant dt, rules made from plain functions, and the two rules that wrap
another: `Scaled` and `Symmetrized`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, dataclass_transform

import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, Partial, register_pytree_with_keys
from jaxtyping import Array, Float

from jaxstepper.errors import UserError
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import Particles
from jaxstepper.physics.reductions import Falls
from jaxstepper.stepping.scheme import Carried, Fallen, Leapfrog, Logarithmic, Scheme

# A symmetrised step is at most this many times the step that its rule wants.
MOST_TIMES_WANTED = 2.0

STATIC = {"static": True}
"""The metadata of a rule's field that is part of the compiled program, not a leaf."""

Memory = Any
"""A pytree that a rule carries from step to step."""

Number = Float[Array, "*B"] | float
"""A number of a rule: a leaf, with axes in front where many rules are stacked for `vmap`."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Rule:
    """Chooses the length of each step, which the scheme of the rule takes: by default the leapfrog.

    A rollout calls `init` once and `step_size` at every state. Both work under `jit`, `vmap` and
    `grad`. `rule.on(scheme)` is the rule on another scheme.

    Every subclass becomes a frozen dataclass and a pytree. Its fields are leaves, so that one
    compiled rollout serves all rules of a class and `vmap` runs many of them at once; a field
    declared with `field(metadata=STATIC)` is compiled in, and must be hashable. A rule of your own
    needs its fields and a `step_size`:

        class Passage(Rule):
            eta: float

            def step_size(self, memory, particles):
                return self.eta * shortest_passage(particles), memory
    """

    scheme: ClassVar[Scheme] = Leapfrog()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        register(dataclass(frozen=True)(cls))

    @property
    def evaluations(self) -> int:
        """How often one call of `step_size` evaluates the accelerations of all bodies."""
        return 0

    @property
    def irreversible(self) -> str:
        """Why the rule cannot be symmetrised; empty if it can.

        It can if dt depends on the state alone and stays the same when all velocities are reversed.
        """
        return ""

    @property
    def reversible(self) -> bool:
        """Whether its steps on its scheme are time-reversible, so that the error does not drift."""
        return False

    @property
    def falls(self) -> Falls | None:
        """What of its scheme's passes for accelerations the rule would be told, as `Fallen`."""
        return None

    def init(self, particles: Particles, /) -> Memory:
        """The memory before the first step."""
        del particles
        return ()

    def step_size(
        self, memory: Memory, particles: Particles, /
    ) -> tuple[Float[Array, ""] | float, Memory]:
        """dt `[]` for the step from this state, and the memory after the state."""
        raise NotImplementedError

    def told(self, memory: Memory, carried: Carried, way: Float[Array, ""] | float, /) -> Memory:
        """The memory, knowing what the scheme carries at the state that `step_size` sees next.

        It is `Fallen`, for a rule that asks for `falls`, where the scheme found them.

        Args:
            memory: what the rule carries.
            carried: what the scheme carries, such as Hermite's jerks, or `Fallen`.
            way: 1, or -1 where time runs backwards.
        """
        del way
        return carried if self.falls is not None and isinstance(carried, Fallen) else memory

    def check_gravity(self, gravity: Gravity, /) -> None:
        """Refuses a force that the rule was not made for.

        Raises:
            UserError: it was not.
        """
        del gravity

    def check_masses(self, mass: Float[np.ndarray, "*B N"], /) -> None:
        """Refuses bodies with masses, `[N]` or of many systems `[B, N]`, that it cannot step.

        Raises:
            UserError: it cannot.
        """
        del mass

    def on(self, scheme: Scheme, /) -> "Rule":
        """The rule on a scheme, which takes its steps.

        Raises:
            UserError: the rule does not fit on the scheme.
        """
        return self if scheme == self.scheme else OnScheme(self, scheme)

    def scaled(self, factor: Number, /) -> "Rule":
        """The rule with steps made longer or shorter by a factor > 0."""
        return Scaled(self, factor)


def register(cls: Any) -> None:
    """Makes a dataclass a pytree.

    `jax.tree_util.register_dataclass` will not do: in JAX 0.10 the tree structures of two classes
    whose fields are alike compare equal, so that one rule may run the compiled rollout of another.
    """
    static = [each.name for each in fields(cls) if each.metadata.get("static")]
    leaves = [each.name for each in fields(cls) if each.name not in static]

    def flatten(rule: Any) -> tuple[list, tuple]:
        children = [(GetAttrKey(name), getattr(rule, name)) for name in leaves]
        return children, tuple(getattr(rule, name) for name in static)

    def unflatten(static_values: tuple, children: Iterable) -> Any:
        # Not by the constructor, whose checks are of numbers, not of what JAX puts in their place.
        rule = object.__new__(cls)
        for name, value in zip((*leaves, *static), (*children, *static_values), strict=True):
            object.__setattr__(rule, name, value)
        return rule

    register_pytree_with_keys(cls, flatten, unflatten)


def scaled(rule: Rule, factor: Number) -> Rule:
    """The rule with steps made longer or shorter by a factor > 0."""
    return rule.scaled(factor)


class Controller(Rule):
    """A rule made from plain functions.

    Numbers that vary from rollout to rollout belong in a `jax.tree_util.Partial`; they are then
    leaves, and nothing compiles again for new ones.

    Attributes:
        init: particles -> the memory before the first step.
        step_size: (memory, particles) -> (dt `[]`, the memory after the state).
        evaluations: evaluations of all accelerations in one call of `step_size`.
        irreversible: why the rule cannot be symmetrised; empty if it can.
        scheme: takes the steps.
        rescaled: factor -> the scaled rule, if scaling does more than multiply dt.
    """

    # `field()` keeps the methods of the base class from becoming defaults.
    init: Callable[[Particles], Memory] = field()
    step_size: Callable[[Memory, Particles], tuple[Array | float, Memory]] = field()
    evaluations: int = field(default=0, metadata=STATIC)
    irreversible: str = field(default="", metadata=STATIC)
    scheme: Scheme = field(default=Rule.scheme, metadata=STATIC)  # type: ignore[misc]
    rescaled: Callable[[Number], Rule] | None = None

    def __post_init__(self) -> None:
        for name in ("init", "step_size", "rescaled"):
            function = getattr(self, name)
            if function is not None:
                object.__setattr__(self, name, as_pytree(function))

    def scaled(self, factor: Number, /) -> Rule:
        return super().scaled(factor) if self.rescaled is None else self.rescaled(factor)


def as_pytree(function: Callable) -> Partial:
    """The function as a `Partial`, whose leaves are the numbers bound to it.

    A `Partial` comes back as it is: another one around it would hide its numbers from JAX.
    """
    return function if isinstance(function, Partial) else Partial(function)


class Memoryless(Rule):
    """The rule of a function of the state.

    Attributes:
        function: particles -> dt `[]`. Numbers that vary from rollout to rollout belong in a
            `jax.tree_util.Partial` around it. Only a function that stays the same when all
            velocities are reversed may be symmetrised.
    """

    function: Callable[[Particles], Array | float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "function", as_pytree(self.function))

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        return jnp.asarray(self.function(particles), particles.time.dtype), memory


class Fixed(Rule):
    """The same dt for every step."""

    dt: Number

    reversible = True

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        return jnp.asarray(self.dt, particles.time.dtype), memory


class _Wrapper(Rule):
    """A rule around another, which it follows in all that it does not change."""

    rule: Rule

    @property
    def scheme(self) -> Scheme:  # type: ignore[override]
        return self.rule.scheme

    @property
    def evaluations(self) -> int:
        return self.rule.evaluations

    @property
    def irreversible(self) -> str:
        return self.rule.irreversible

    @property
    def reversible(self) -> bool:
        return self.rule.reversible

    @property
    def falls(self) -> Falls | None:
        return self.rule.falls

    def init(self, particles: Particles, /) -> Memory:
        return self.rule.init(particles)

    def told(self, memory: Memory, carried: Carried, way: Float[Array, ""] | float, /) -> Memory:
        return self.rule.told(memory, carried, way)

    def check_gravity(self, gravity: Gravity, /) -> None:
        self.rule.check_gravity(gravity)

    def check_masses(self, mass: Float[np.ndarray, "*B N"], /) -> None:
        self.rule.check_masses(mass)

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array | float, Memory]:
        return self.rule.step_size(memory, particles)

    def on(self, scheme: Scheme, /) -> Rule:
        return replace(self, rule=self.rule.on(scheme))


class OnScheme(_Wrapper):
    """A rule on a scheme that is not its own; made by `rule.on(scheme)`.

    Raises:
        UserError: the scheme counts another time than the rule.
    """

    chosen: Scheme = field(metadata=STATIC)

    def __post_init__(self) -> None:
        if isinstance(self.chosen, Logarithmic):
            raise UserError(
                "the scheme logarithmic takes steps of a transformed time; only the rule "
                "logarithmic-hamiltonian chooses those"
            )

    @property
    def scheme(self) -> Scheme:  # type: ignore[override]
        return self.chosen

    @property
    def irreversible(self) -> str:
        return self.chosen.irreversible or self.rule.irreversible

    @property
    def reversible(self) -> bool:
        return self.rule.reversible and not self.chosen.irreversible

    def on(self, scheme: Scheme, /) -> Rule:
        return self.rule.on(scheme)

    def scaled(self, factor: Number, /) -> Rule:
        return replace(self, rule=self.rule.scaled(factor))


class Scaled(_Wrapper):
    """A rule with its dt multiplied by a factor > 0.

    Prefer `scaled`, which asks the rule: some scale better by a parameter of their own.
    """

    factor: Number

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        dt, memory = self.rule.step_size(memory, particles)
        return jnp.asarray(self.factor, particles.time.dtype) * dt, memory


class Symmetrized(_Wrapper):
    """A rule made time-reversible: its energy error oscillates, but does not drift.

    Where the rule wants the step tau(state), carry rho = 1 / dt and at every state set
    rho <- 2 / tau - rho, so that 1 / tau is the mean of rho before and after the state, whichever
    way time runs; at the start rho = 1 / tau. This needs no iteration and no evaluation of forces.
    rho is kept above 1 / (2 tau). Where tau grows so fast from one state to the next that it meets
    this floor, the step is not reversible.
    Source: Huang & Leimkuhler 1997, the adaptive Verlet method.

    Raises:
        UserError: the rule depends on more than the state, or on the sign of the velocities.
    """

    def __post_init__(self) -> None:
        if self.rule.irreversible:
            raise UserError(f"this rule cannot be symmetrised: {self.rule.irreversible}")

    @property
    def irreversible(self) -> str:
        return "it is reversible as it is"

    @property
    def reversible(self) -> bool:
        return True

    def init(self, particles: Particles, /) -> Memory:
        # A rho of 0 marks the start.
        return jnp.zeros((), particles.time.dtype), self.rule.init(particles)

    def told(self, memory: Memory, carried: Carried, way: Float[Array, ""] | float, /) -> Memory:
        rho, inner = memory
        return rho, self.rule.told(inner, carried, way)

    def step_size(self, memory: Memory, particles: Particles, /) -> tuple[Array, Memory]:
        rho, inner = memory
        wanted, inner = self.rule.step_size(inner, particles)
        wanted = jnp.asarray(wanted, rho.dtype)
        rho = jnp.where(rho == 0, 1 / wanted, 2 / wanted - rho)
        rho = jnp.maximum(rho, 1 / (MOST_TIMES_WANTED * wanted))
        return 1 / rho, (rho, inner)

    def scaled(self, factor: Number, /) -> Rule:
        inner = self.rule.scaled(factor)
        # A mere factor on tau is a factor on dt.
        return super().scaled(factor) if isinstance(inner, Scaled) else Symmetrized(inner)


fixed = Fixed
memoryless = Memoryless
symmetrized = Symmetrized
