"""What `simulate` says about a rollout that stalled, or whose energy error is large."""

import math

import numpy as np
from jaxtyping import Float

from jaxstepper.physics.boundness import is_unbound
from jaxstepper.physics.particles import Particles
from jaxstepper.reporting.note import note
from jaxstepper.runs.domain import outside, quantities
from jaxstepper.runs.models import TrainedModel
from jaxstepper.settings.config import DERIVATIVES, NATIVE_FEATURES, Config
from jaxstepper.settings.request import Request
from jaxstepper.stepping.scheme import BY_NAME as SCHEMES
from jaxstepper.stepping.status import STALLED
from jaxstepper.stepping.watch import WRONG_ABOVE, Watch

# Users are warned of larger energy errors.
POOR_ABOVE = 1e-2
# A tolerance is missed if the error is this many times larger.
MISSED_BY = 3.0
# The energy error of symmetrised free-fall steps is about 4 (eta^2) / (10 (1 - e)) on a pair of
# eccentricity e. With this eta, times the square root of a tolerance, they keep to it up to 0.97.
FREE_FALL_ETA = 0.25


def rule_name(config: Config) -> str:
    """The step-size rule: --controller, or the one that --integrator-mode means."""
    mode = "fixed" if config.integrator_mode == "analytic" else "learned"
    return config.controller or mode


def aims_at_tolerance(config: Config) -> bool:
    """Whether the rule takes a tolerance."""
    takes_one = config.feature_type in NATIVE_FEATURES and config.feature_type != DERIVATIVES
    return rule_name(config) == "learned" and takes_one


def words_of_failure(last: Particles, step: int, status: int, config: Config) -> str:
    """Why a rollout could not go on: when, between which bodies, and what to do."""
    where = f"at time {float(last.time):.9g}, in step {step}"
    one, other, apart = closest_pair(np.asarray(last.position))
    pair = f"bodies {one} and {other} (counted from 0) are {apart:.3g} apart"
    cure = "soften the force (--softening)"
    if rule_name(config) == "fixed":
        cure = "a larger --dt helps"
    elif config.external_field_mass is None:
        cure += ", or use --controller logarithmic-hamiltonian"
    if status == STALLED:
        return f"the rollout stalled {where}: its steps became too short; {pair}; {cure}"
    return f"the rollout stopped {where}: the rule's step is not finite; {pair}; {cure}"


def closest_pair(position: Float[np.ndarray, "N D"]) -> tuple[int, int, float]:
    """The closest two bodies and their distance, in little memory for many bodies."""
    nearest = []
    for i in range(len(position) - 1):
        squared = np.sum((position[i + 1 :] - position[i]) ** 2, axis=1)
        j = int(np.argmin(squared))
        nearest.append((float(np.max(np.abs(position[i + 1 + j] - position[i]))), i, i + 1 + j))
    if not nearest:
        return 0, 0, math.nan
    _, i, j = min(nearest)
    return i, j, math.dist(position[i], position[j])


def words_of_blow_up(step: int, steps: int, config: Config) -> str:
    """After which step the energy of a rollout is not finite; with a cure."""
    where = f"the rollout blew up: its energy is not finite after step {step} of {steps}"
    return f"{where}; {_remedy(config)} helps"


def words_of_wrong_energy(watch: Watch, steps: int, config: Config) -> str:
    """When the energy error of a rollout was first seen to be no physics; with a cure."""
    return (
        f"the rollout went wrong: its energy error is above {WRONG_ABOVE:g} since time "
        f"{float(watch.wrong_time):.6g}, step {int(watch.wrong_step)} of {steps}; "
        f"{_cure(config)}; so does a softer force (--softening)"
    )


def warn_of_domain(
    model: TrainedModel,
    name: str,
    tables: np.ndarray,
    softening: float,
    tolerance: float | None = None,
) -> None:
    """Warns, in a line, of bodies `[B, N, C]` or a tolerance that a model is not known to suit."""
    if not model.domain:
        return
    also = {} if tolerance is None else {"tolerance": tolerance}
    systems = [quantities(table, softening) | also for table in tables]
    if said := outside(model.domain, systems):
        note(f"warning: outside of what {name} is known to be good for: {'; '.join(said)}")


def warn_of_unbound(path: str, tables: np.ndarray, softening: float, G: float) -> None:
    """Warns of bodies of a file that fly apart, which is likely a matter of units.

    Args:
        path: the file.
        tables: `[B, N, 1 + 2 D]`, with masses G m.
        softening: the softening length of the force.
        G: the gravitational constant.
    """
    if any(is_unbound(table, softening) for table in tables):
        note(
            f"warning: the bodies of {path} fly apart: no two of them are bound, nor are all "
            f"together, with G = {G:g}; if they should be, give their units (--units au yr Msun) "
            "or G (--G)"
        )


def warn_of_errors(request: Request, errors: list[float]) -> None:
    """Warns, with a cure, if the largest energy error of a rollout misses its tolerance or is poor.

    `errors` are those of the rollouts that nothing else was said of.
    """
    config = request.config
    sane = [error for error in errors if math.isfinite(error)]
    if not sane:
        return
    worst = max(sane)
    said = f"warning: the largest energy error on the way is {worst:.2g}"
    if aims_at_tolerance(config) and worst > MISSED_BY * aimed_at(config):
        asked = aimed_at(config)
        cure = f"{_rule_that_keeps(config, asked)} keeps to it"
        if config.external_field_mass is not None:
            cure = _cure(config)
        note(f"{said}, {worst / asked:.2g} times --tolerance {asked:g}; {cure}")
    elif worst > POOR_ABOVE:
        note(f"{said}; {_cure(config)}")


def aimed_at(config: Config) -> float:
    """The tolerance a learned rule aims for: --eta multiplies its steps."""
    return config.tolerance * (config.eta or 1.0) ** SCHEMES[config.scheme].order


def _rule_that_keeps(config: Config, tolerance: float) -> str:
    """Flags of a rule that keeps to a tolerance without a field; two bodies have an exact one."""
    if config.num_particles == 2 and config.softening == 0:
        return "--controller logarithmic-hamiltonian"
    eta = FREE_FALL_ETA * math.sqrt(tolerance)
    return f"--controller free-fall --symmetrize --eta {eta:.2g}"


def _cure(config: Config) -> str:
    return f"{_remedy(config)} makes it smaller"


def _remedy(config: Config) -> str:
    """What makes energy errors smaller."""
    if aims_at_tolerance(config):
        return "a smaller --tolerance"
    if rule_name(config) != "fixed":
        return "a smaller --eta"
    return "a smaller --dt, or --controller free-fall --symmetrize,"
