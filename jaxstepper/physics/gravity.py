"""Accelerations and potential energies: softened gravity and external fields.

G is 1 unless `Gravity` says otherwise.

There are five ways to sum over pairs. A handful of bodies is unrolled into scalar arithmetic,
which XLA fuses into one kernel without loops. Larger systems go through the pair matrix in blocks,
so that memory grows as N, not N^2: a CPU takes a few columns at a time while they are short, and
then rows; an accelerator takes large blocks of whole rows, and XLA sums each row without storing
it; a GPU sums the pairs of many bodies in a kernel of their own. All of them subtract positions
first and square afterwards: |x_i|^2 + |x_j|^2 - 2 x_i.x_j would
lose close pairs to cancellation. Within `machine.devices.sharded`, devices share the rows of the
larger systems.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from jaxstepper.errors import require
from jaxstepper.machine.devices import share_rows
from jaxstepper.physics import pair_kernel
from jaxstepper.physics.fast_roots import inverse_cube, inverse_root
from jaxstepper.physics.reductions import SUM, Falls, Reduction

# Up to this many bodies the pairs are unrolled; the size of the program grows as its square.
UNROLLED_UP_TO = 6
# Bodies whose pull on all others is in memory at once (tried: 4 to 64). With fewer than 16, XLA
# computes each weight once for every component.
SOURCES_AT_ONCE = 16
# On a CPU, up to this many bodies are summed by their sources. For more, XLA would share such small
# blocks between threads, which costs more than it saves.
BY_SOURCES_UP_TO = 80
# Beyond, the pulls of so many blocks of so many sources are added in vectors, and in scalars from
# there on. XLA keeps the whole of such a sum in registers, and computes each weight once.
BLOCKS, BLOCK = 4, 16
# Pairs at once in such sums, in whole rows: enough to share between threads.
PAIRS_IN_BLOCKS = 131_072
# Entries of the pair matrix at once, in whole rows. On a CPU, they stay in cache.
PAIRS_AT_ONCE = 2**16
# An accelerator needs work for all its threads, and every block costs a launch.
PAIRS_AT_ONCE_ON_ACCELERATOR = 2**26


@dataclass(frozen=True)
class ExternalField:
    """A field that acts on every body, in addition to the bodies' own gravity.

    Attributes:
        acceleration: (position `[N, D]`, time `[]`) -> acceleration `[N, D]`.
        potential: (position `[N, D]`, time `[]`) -> potential `[N]`; its energy is sum m Phi.
    """

    acceleration: Callable[[Array, Array], Array]
    potential: Callable[[Array, Array], Array]

    @classmethod
    def from_potential(cls, potential: Callable[[Array, Array], Array]) -> "ExternalField":
        """The field -grad Phi of a potential (position `[N, D]`, time `[]`) -> Phi `[N]`.

        The potential of a body must depend on no other body's position.
        """
        return cls(_minus_gradient(potential), potential)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Gravity:
    """What moves the bodies: their mutual, softened gravity and perhaps an external field.

    Attributes:
        softening: Plummer softening length of the mutual gravity, >= 0.
        external: the external field, or None.
        by_component: whether to sum the pulls of a few bodies component by component. That is fast
            where many systems are batched on the last axis, and slow for a single one.
        G: the gravitational constant, in the units of the bodies. An external field is in the same
            units as it is.
    """

    softening: float = 0.0
    external: ExternalField | None = None
    by_component: bool = False
    G: float = 1.0

    def __post_init__(self) -> None:
        require(
            isinstance(self.G, int | float) and 0 < self.G < math.inf,
            f"Gravity(G={self.G}): must be a number > 0",
        )

    def attracting(self, mass: Float[Array, "*B N"]) -> Float[Array, "*B N"]:
        """G m, the masses that attract as these do where G = 1."""
        return mass if self.G == 1 else self.G * mass

    def acceleration(
        self, position: Float[Array, "N D"], mass: Float[Array, " N"], time: Float[Array, ""]
    ) -> Float[Array, "N D"]:
        """Acceleration `[N, D]` of every body."""
        attracting = self.attracting(mass)
        own = _own_acceleration(position, attracting, self.softening, self.by_component)
        return own if self.external is None else own + self.external.acceleration(position, time)

    def acceleration_and_falls(
        self,
        position: Float[Array, "N D"],
        mass: Float[Array, " N"],
        time: Float[Array, ""],
        falls: Falls,
    ) -> tuple[Float[Array, "N D"], Float[Array, " N"]]:
        """The same for several bodies, and how fast their pairs fall, `[N]`, in the same pass."""
        own = _sums_over_pairs(position, self.attracting(mass), self.softening, falls)
        a, of_bodies = own[:, :-1], own[:, -1]
        external = self.external
        return a if external is None else a + external.acceleration(position, time), of_bodies

    # Compiled as one, for those who ask for it outside of a compiled program.
    @partial(jax.jit, static_argnums=0)
    def potential_energy(
        self, position: Float[Array, "N D"], mass: Float[Array, " N"], time: Float[Array, ""]
    ) -> Float[Array, ""]:
        """Potential energy `[]` of the bodies in their own and the external field."""
        own = self_potential_energy(position, mass, self.softening)
        own = own if self.G == 1 else self.G * own
        if self.external is None:
            return own
        return own + jnp.sum(mass * self.external.potential(position, time))


def self_acceleration(
    position: Float[Array, "N D"],
    mass: Float[Array, " N"],
    softening: float = 0.0,
    by_component: bool = False,
) -> Float[Array, "N D"]:
    """a_i = sum_{j != i} m_j (x_j - x_i) / (|x_j - x_i|^2 + softening^2)^(3/2), `[N, D]`.

    Here G = 1. Bodies at the same place do not attract each other; the gradient is finite there.
    """
    if position.shape[0] == 1:
        return jnp.zeros_like(position)
    if position.shape[0] <= UNROLLED_UP_TO:
        return _acceleration_unrolled(position, mass, softening, by_component)

    return _sums_over_pairs(position, mass, softening, None)


# Compiled as one, for those who ask for it outside of a compiled program, and written out in one.
_own_acceleration = jax.jit(self_acceleration, static_argnums=(2, 3), inline=True)


class _Targets(NamedTuple):
    """K of the bodies, on which all pull."""

    position: Float[Array, "K D"]
    mass: Float[Array, " K"]
    number: Int[Array, " K"]


def _sums_over_pairs(
    position: Float[Array, "N D"], mass: Float[Array, " N"], softening: float, falls: Falls | None
) -> Float[Array, "N E"]:
    """The components of every acceleration, `[N, D]`, and last, if they are asked for, `falls`.

    By its number a body is told from itself: where XLA computes a position twice, a body's distance
    from itself may be a rounding error, not 0.
    """
    rows = _Targets(position, mass, jnp.arange(len(mass)))

    def on(targets: _Targets) -> Float[Array, "K E"]:
        return by_platform(
            cpu=lambda: _on_cpu(targets, position, mass, softening, falls),
            accelerator=lambda: _by_rows(targets, position, mass, softening, falls),
            gpu=lambda: _by_kernel(targets, position, mass, softening, falls),
            sources=len(mass),
        )

    return share_rows(on, rows)


def self_potential_energy(
    position: Float[Array, "N D"], mass: Float[Array, " N"], softening: float = 0.0
) -> Float[Array, ""]:
    """With G = 1, U = -sum_{i<j} m_i m_j / sqrt(|x_i - x_j|^2 + softening^2), `[]`."""
    count = position.shape[0]
    if count <= UNROLLED_UP_TO:
        pairs = ((i, j) for i in range(count) for j in range(i + 1, count))
        terms = (
            mass[i] * mass[j] * inverse_distance(_distance_squared(x_ij, softening))
            for i, j in pairs
            for x_ij in [position[j] - position[i]]
        )
        return -sum(terms, start=jnp.zeros((), position.dtype))

    return -0.5 * jnp.sum(mass * _depths(position, mass, softening))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _depths(
    position: Float[Array, "N D"], mass: Float[Array, " N"], softening: float
) -> Float[Array, " N"]:
    """Of each body the sum of mass / distance over the others."""
    rows = _Targets(position, mass, jnp.arange(len(mass)))

    def on(targets: _Targets) -> Float[Array, " K"]:
        return _depths_by_sources(targets, position, mass, softening)

    def by_kernel(targets: _Targets) -> Float[Array, " K"]:
        return _depths_by_kernel(targets, position, mass, softening)

    return by_platform(
        cpu=lambda: share_rows(on, rows),
        accelerator=lambda: _depths_by_rows(position, mass, softening),
        gpu=lambda: share_rows(by_kernel, rows),
        sources=len(mass),
    )


@_depths.defjvp
def _slope_of_depths(softening: float, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """That of the sum by rows, which compiles sooner."""
    return jax.jvp(partial(_depths_by_rows, softening=softening), primals, tangents)


def _depths_by_rows(
    position: Float[Array, "N D"], mass: Float[Array, " N"], softening: float
) -> Float[Array, " N"]:
    return for_each_body(_depth_of(position, mass, softening), position.shape[0])


def _depth_of(
    position: Float[Array, "N D"], mass: Float[Array, " N"], softening: Array | float
) -> Callable[[Array], Array]:
    def row(i: Array) -> Array:
        dx = position.T - position[i][:, None]
        inverse = inverse_distance(_distance_squared(dx, softening))
        return jnp.sum(jnp.where(jnp.arange(len(mass)) != i, mass * inverse, 0.0))

    return row


def _depths_by_kernel(
    targets: _Targets, position: Float[Array, "N D"], mass: Float[Array, " N"], softening: float
) -> Float[Array, " K"]:
    def terms(sources: Sequence[Array], one: Sequence[Array]) -> list[Array]:
        *x_s, m_s, number = sources
        *x, own_number = one
        squares = ((x_k - own) ** 2 for x_k, own in zip(x_s, x, strict=True))
        r_squared = sum(squares, start=jnp.asarray(softening**2, position.dtype))
        inverse = pair_kernel.inverse_distance(r_squared)
        return [jnp.where(number != own_number, m_s * inverse, 0.0)]

    where = [*targets.position.T, targets.number]
    return pair_kernel.over_sources(terms, [SUM], where, [*position.T, mass])[0]


def _depths_by_sources(
    targets: _Targets,
    position: Float[Array, "N D"],
    mass: Float[Array, " N"],
    softening: Array | float,
) -> Float[Array, " K"]:
    """As `_by_sources`."""
    x = targets.position.T

    def add(depth: Array, block: tuple[Array, Array, Array]) -> tuple[Array, None]:
        x_s, m_s, number = block
        dx = [x_s[:, k, None] - own for k, own in enumerate(x)]
        r_squared = sum((d * d for d in dx), start=jnp.asarray(softening**2, x_s.dtype))
        inverse = jnp.where(number[:, None] != targets.number, inverse_root(r_squared), 0.0)
        depths = m_s[:, None] * inverse
        return sum(depths, start=depth), None

    return lax.scan(add, jnp.zeros_like(x[0]), _blocks_of_sources(position, mass))[0]


def for_each_body(row: Callable[[Array], Any], count: int) -> Any:
    """`row(i)` for each of `count` bodies, a block at a time, so that memory grows as N.

    Devices that share a large system share its rows.
    """

    def of(bodies: Int[Array, " K"]) -> Any:
        def in_blocks(pairs: int) -> Any:
            return lax.map(row, bodies, batch_size=min(len(bodies), max(1, pairs // count)))

        if count**2 <= PAIRS_AT_ONCE:
            return in_blocks(PAIRS_AT_ONCE)
        return by_platform(
            cpu=lambda: in_blocks(PAIRS_AT_ONCE),
            accelerator=lambda: in_blocks(PAIRS_AT_ONCE_ON_ACCELERATOR),
        )

    return share_rows(of, jnp.arange(count))


def by_platform(
    cpu: Callable[[], Any],
    accelerator: Callable[[], Any],
    gpu: Callable[[], Any] | None = None,
    sources: int = 0,
) -> Any:
    """Ways to the same numbers; takes the one that suits the platform compiled for.

    That for GPUs is a `pair_kernel`, and taken where it suits so many sources.
    """
    others = {"cuda": gpu} if gpu is not None and pair_kernel.suits(sources) else {}
    return lax.platform_dependent(cpu=cpu, default=accelerator, **others)


@lru_cache
def tidal_field(mass: float, position: tuple[float, ...]) -> ExternalField:
    """The tide of a distant point mass M at R, in the frame that falls freely with the origin.

    a(x) = M [ (R-x)/|R-x|^3 - R/|R|^3 ],  Phi(x) = -M [ 1/|R-x| - 1/|R| - x.R/|R|^3 ].
    Cached, so that equal fields are one object and compile once.
    """

    def acceleration(x: Float[Array, "N D"], time: Array) -> Float[Array, "N D"]:
        del time
        origin = jnp.asarray(position, x.dtype)
        to_mass = origin - x
        distance = jnp.linalg.norm(to_mass, axis=-1, keepdims=True)
        return mass * (to_mass / distance**3 - origin / jnp.linalg.norm(origin) ** 3)

    def potential(x: Float[Array, "N D"], time: Array) -> Float[Array, " N"]:
        del time
        origin = jnp.asarray(position, x.dtype)
        distance, far = jnp.linalg.norm(origin - x, axis=-1), jnp.linalg.norm(origin)
        return -mass * (1 / distance - 1 / far - x @ origin / far**3)

    return ExternalField(acceleration, potential)


@lru_cache
def _minus_gradient(
    potential: Callable[[Array, Array], Array],
) -> Callable[[Array, Array], Array]:
    """Cached, so that equal fields are equal and compile once."""

    def minus_sum(position: Array, time: Array) -> Array:
        return -jnp.sum(potential(position, time))

    return jax.grad(minus_sum)


def _acceleration_unrolled(
    position: Float[Array, "N D"], mass: Float[Array, " N"], softening: float, by_component: bool
) -> Float[Array, "N D"]:
    count, dim = position.shape
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    r_squared = [sum((position[j, k] - position[i, k]) ** 2 for k in range(dim)) for i, j in pairs]
    # A single root comes sooner by division, and many by multiplication. Not `by_platform`, which
    # under `vmap` would put the systems on the first axis.
    many_on_cpu = by_component and jax.default_backend() == "cpu"
    root = inverse_root if many_on_cpu else inverse_distance
    inverse = root(jnp.stack(r_squared) + softening**2)
    inverse_cubed = inverse * inverse * inverse

    def add_pulls(x: Float[Array, "N ..."]) -> Float[Array, "N ..."]:
        a = [jnp.zeros_like(x[0])] * count
        for pair, (i, j) in enumerate(pairs):
            pull = inverse_cubed[pair] * (x[j] - x[i])
            a[i] = a[i] + mass[j] * pull
            a[j] = a[j] - mass[i] * pull
        return jnp.stack(a)

    if by_component:
        return jnp.stack([add_pulls(position[:, k]) for k in range(dim)], axis=1)
    return add_pulls(position)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _on_cpu(
    targets: _Targets,
    position: Float[Array, "N D"],
    mass: Float[Array, " N"],
    softening: float,
    falls: Falls | None,
) -> Float[Array, "K E"]:
    """The fastest of the forms for this number of bodies."""
    form = _by_sources if position.shape[0] <= BY_SOURCES_UP_TO else _in_blocks
    return form(targets, position, mass, softening, falls)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def _by_kernel(
    targets: _Targets,
    position: Float[Array, "N D"],
    mass: Float[Array, " N"],
    softening: float,
    falls: Falls | None,
) -> Float[Array, "K E"]:
    """Sums in a kernel for GPUs."""
    dim = position.shape[1]

    def terms(sources: Sequence[Array], one: Sequence[Array]) -> list[Array]:
        *x_s, m_s, number = sources
        *x, own_mass, own_number = one
        dx = [x_k - own for x_k, own in zip(x_s, x, strict=True)]
        r_squared = sum((d * d for d in dx), start=jnp.asarray(softening**2, position.dtype))
        others = number != own_number
        inverse = jnp.where(others, pair_kernel.inverse_distance(r_squared), 0.0)
        cube = inverse * inverse * inverse
        pulls = [m_s * cube * d for d in dx]
        if falls is None:
            return pulls
        others &= number < len(mass)
        found = _found(falls, cube, m_s + own_mass, others)
        return [*pulls, jnp.where(others, found, falls.over.neutral)]

    overs = [SUM] * dim if falls is None else [*[SUM] * dim, falls.over]
    where = [*targets.position.T, targets.mass, targets.number]
    sums = pair_kernel.over_sources(terms, overs, where, [*position.T, mass])
    return jnp.stack(sums, axis=1)


def _slope_by_rows(
    pairs: int, softening: float, falls: Falls | None, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    """That of the sum by rows, which is as fast as any, and compiles four times sooner."""

    # Zeros of our own: within `shard_map`, JAX's are on another mesh than what they belong to.
    def zero(x: Array, dx: Any) -> Any:
        return jnp.zeros(x.shape, x.dtype) if isinstance(dx, SymbolicZero) else dx

    (targets, *sources), (moves, *others) = primals, tangents

    def by_rows(place: Array, own_mass: Array, position: Array, mass: Array) -> Array:
        some = _Targets(place, own_mass, targets.number)
        return _by_rows(some, position, mass, softening, falls, pairs)

    at = (targets.position, targets.mass, *sources)
    along = (moves.position, moves.mass, *others)
    return jax.jvp(by_rows, at, tuple(map(zero, at, along)))


_on_cpu.defjvp(partial(_slope_by_rows, PAIRS_AT_ONCE), symbolic_zeros=True)
_by_kernel.defjvp(partial(_slope_by_rows, PAIRS_AT_ONCE_ON_ACCELERATOR), symbolic_zeros=True)


def _by_sources(
    targets: _Targets,
    position: Float[Array, "N D"],
    mass: Float[Array, " N"],
    softening: float,
    falls: Falls | None,
) -> Float[Array, "K E"]:
    """Sums the pull of a few sources at a time on all targets, which are among the bodies.

    Every operation is on vectors over the targets `[K]`, so the sums need no reduction. On a CPU
    that is twice as fast as multiplying rows of the pair matrix by the masses.
    """
    dim = position.shape[1]
    x = [targets.position[:, k] for k in range(dim)]

    def add_pull(sums: list[Array], block: tuple[Array, Array, Array]) -> tuple[list[Array], None]:
        x_s, m_s, number = block
        dx = [x_s[:, k, None] - x[k] for k in range(dim)]
        r_squared = sum((d * d for d in dx), start=jnp.asarray(softening**2, x_s.dtype))
        others = number[:, None] != targets.number
        cube = jnp.where(others, inverse_cube(r_squared), 0.0)
        # What all sums share, and so is computed once, is the cube or the weight.
        each = range(len(m_s))
        if falls is None:
            weight = m_s[:, None] * cube
            pulls = [[weight[s] * (x_s[s, k] - x[k]) for s in each] for k in range(dim)]
            return [sum(of_k, start=a) for a, of_k in zip(sums, pulls, strict=True)], None
        pulls = [[cube[s] * (m_s[s] * (x_s[s, k] - x[k])) for s in each] for k in range(dim)]
        *a, fall = sums
        a = [sum(of_k, start=a_k) for a_k, of_k in zip(a, pulls, strict=True)]
        for s in each:
            # Compared anew, which takes less time than to keep the comparisons of all.
            others = (number[s] != targets.number) & (number[s] < len(mass))
            found = _found(falls, cube[s], m_s[s] + targets.mass, others)
            fall = falls.over.combine(fall, jnp.where(others, found, falls.over.neutral))
        return [*a, fall], None

    zero = [jnp.zeros_like(x[0])] * (dim if falls is None else dim + 1)
    return jnp.stack(lax.scan(add_pull, zero, _blocks_of_sources(position, mass))[0], axis=1)


def _blocks_of_sources(
    position: Float[Array, "N D"], mass: Float[Array, " N"]
) -> tuple[Float[Array, "B S D"], Float[Array, "B S"], Int[Array, "B S"]]:
    """Positions, masses and numbers, a few sources at a time.

    Massless copies of the last body, whose numbers are no body's, fill up the last block.
    """
    count, dim = position.shape
    size = min(count, SOURCES_AT_ONCE)
    missing = -count % size
    sources = jnp.pad(position, ((0, missing), (0, 0)), mode="edge").reshape(-1, size, dim)
    masses = jnp.pad(mass, (0, missing)).reshape(-1, size)
    return sources, masses, jnp.arange(count + missing).reshape(-1, size)


def _found(falls: Falls, cube: Array, mu: Array, others: Array) -> Array:
    """`falls` of pairs, given d^-3, which is 0 for `others` in the same place: infinite there."""
    met = others & (cube == 0) & (mu > 0)
    return jnp.where(met, jnp.inf, falls.of_square(cube * mu))


def _in_blocks(
    targets: _Targets,
    position: Float[Array, "N D"],
    mass: Float[Array, " N"],
    softening: float,
    falls: Falls | None,
) -> Float[Array, "K E"]:
    """Sums the pulls on some targets at a time, all components of a pull in one loop."""
    count, dim = position.shape
    missing = -count % (BLOCKS * BLOCK)
    # Massless copies of the last body, whose numbers are no body's, fill up the last block.
    sources = jnp.pad(position.T, ((0, 0), (0, missing)), mode="edge")
    masses = jnp.pad(mass, (0, missing))
    overs = [SUM] * dim if falls is None else [*[SUM] * dim, falls.over]

    def of_some(some: _Targets) -> Float[Array, "K E"]:
        own_mass, own_number = some.mass[:, None], some.number[:, None]
        dx = [x_s - x[:, None] for x_s, x in zip(sources, some.position.T, strict=True)]
        r_squared = sum((d * d for d in dx), start=jnp.asarray(softening**2, position.dtype))
        numbers = jnp.arange(count + missing)
        others = (numbers != own_number) & (numbers < count)
        cube = jnp.where(others, inverse_cube(r_squared), 0.0)
        weight = masses * cube
        terms = [weight * d for d in dx]
        if falls is not None:
            terms.append(_found(falls, cube, masses + own_mass, others))
        split = [x.reshape(len(own_mass), -1, BLOCKS, BLOCK) for x in terms]
        together = reduce_together(split, overs, 2)
        return jnp.stack(
            [over.reduce(x, (1, 2)) for over, x in zip(overs, together, strict=True)], 1
        )

    most = max(1, PAIRS_IN_BLOCKS // count)
    if len(targets.mass) <= most:
        return of_some(targets)

    def of_one(one: _Targets) -> Float[Array, " E"]:
        return of_some(jax.tree.map(lambda x: x[None], one))[0]

    return lax.map(of_one, targets, batch_size=most)


def sum_together(terms: list[Array], axis: int) -> list[Array]:
    """Sums over an axis, in one loop for all, which computes once what they share."""
    return reduce_together(terms, [SUM] * len(terms), axis)


def reduce_together(terms: list[Array], overs: list[Reduction], axis: int) -> list[Array]:
    """Reductions over an axis, in one loop for all, which computes once what they share."""
    neutral = [jnp.asarray(over.neutral, terms[0].dtype) for over in overs]

    def combine(one: tuple[Array, ...], other: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(over.combine(x, y) for over, x, y in zip(overs, one, other, strict=True))

    return list(lax.reduce(tuple(terms), tuple(neutral), combine, (axis,)))


def _by_rows(
    targets: _Targets,
    position: Float[Array, "N D"],
    mass: Float[Array, " N"],
    softening: float,
    falls: Falls | None,
    pairs: int = PAIRS_AT_ONCE_ON_ACCELERATOR,
) -> Float[Array, "K E"]:
    """Sums the pulls on each target, component by component, so that sums share the weights."""
    count, x = len(mass), position.T

    def row(target: _Targets) -> Float[Array, " E"]:
        dx = [x_k - own for x_k, own in zip(x, target.position, strict=True)]
        r_squared = sum((d * d for d in dx), start=jnp.asarray(softening**2, x.dtype))
        others = jnp.arange(count) != target.number
        inverse = jnp.where(others, inverse_distance(r_squared), 0.0)
        cube = inverse * inverse * inverse
        weight = mass * cube
        sums = [jnp.sum(weight * d) for d in dx]
        if falls is not None:
            sums.append(falls.over.reduce(_found(falls, cube, mass + target.mass, others)))
        return jnp.stack(sums)

    most = max(1, pairs // position.shape[0])
    return lax.map(row, targets, batch_size=min(len(targets.mass), most))


def _distance_squared(dx: Float[Array, "D ..."], softening: Array | float) -> Float[Array, "..."]:
    return jnp.sum(dx * dx, axis=0) + softening**2


def inverse_distance(r_squared: Array) -> Array:
    """1/r, and 0 where r = 0; the inner `where` keeps infinities out of the gradient."""
    apart = r_squared > 0
    return jnp.where(apart, 1 / jnp.sqrt(jnp.where(apart, r_squared, 1.0)), 0.0)


def safe_norm(x: Float[Array, "... D"]) -> Float[Array, "..."]:
    """|x| over the last axis, with gradient 0 (not NaN) at x = 0."""
    return safe_sqrt(jnp.sum(x * x, axis=-1))


def safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, with gradient 0 (not NaN) at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
