"""Checks of options against each other (standard library only)."""

import math
import warnings

from jaxstepper.settings.config import (
    CRITERIA,
    ENCOUNTERS,
    NATIVE_FEATURES,
    OBJECTIVES,
    OF_WEIGHTS,
    OPTIONS,
    ORBITAL,
    Config,
    flag_of,
)
from jaxstepper.settings.option import Command
from jaxstepper.settings.request import Request

LEAST_DISTANCE = 1e-100  # whose cube is still a number


def check(command: Command, request: Request) -> Request:
    """The request with derived options filled in, after all checks that need no file.

    To simulate, call `check_history` once the checkpoint's history_len is known.

    Raises:
        UserError: two options contradict each other, or one that was set has no effect.
    """
    _check_momentum(request)
    _check_band(request)
    _check_output(request)
    _check_binaries(request)
    request = _check_controller(request)
    if command != "simulate":  # there, history_len may still come from the checkpoint
        check_history(request)
        request = _check_objective(request)
    return check_together(request)


def check_together(request: Request) -> Request:
    """Checks values against each other, set or not; cuts the field's position to `dim`.

    Raises:
        UserError: two values contradict each other.
    """
    config = request.config
    for low, high in (
        ("E_lower", "E_upper"),
        ("e_min", "e_max"),
        ("a_min", "a_max"),
        ("tolerance_min", "tolerance_max"),
        ("eta_min", "eta_max"),
    ):
        smaller, larger = getattr(config, low), getattr(config, high)
        if smaller > larger:
            raise request.refusal(low, f"must be <= {high}, {larger}")
    if config.norm_mode == "manual":
        for scale in ("norm_L0", "norm_V0"):
            if getattr(config, scale) is None:
                rule = f"needs {scale} too ({flag_of(scale)}), a number > 0"
                raise request.refusal("norm_mode", rule)
    _check_processes(request)
    if config.shard and config.multi_orbit_sim:
        rule = "is for one large system; devices share the systems of multi_orbit_sim as it is"
        raise request.refusal("shard", rule)
    return request.replace(external_field_position=_field_position(request))


def check_history(request: Request) -> None:
    """Raises a UserError if integrator_mode is history and history_len is 0."""
    if request.config.integrator_mode == "history" and request.config.history_len == 0:
        rule = "needs history_len (--history-len), an integer >= 1"
        raise request.refusal("integrator_mode", rule)


def ineffective(request: Request) -> list[str]:
    """The options that were set and change nothing; they are accepted for compatibility."""
    return [name for name in request.sources if not OPTIONS[name].effect]


def warn_of_ineffective(request: Request) -> None:
    """Warns of every option that was set and changes nothing."""
    for name in ineffective(request):
        warnings.warn(f"{request.source(name)} is accepted and changes nothing", stacklevel=3)


def _check_processes(request: Request) -> None:
    index, count = request.config.process_id, request.config.num_processes
    together = ("coordinator", "num_processes", "process_id")
    absent = [name for name in together if getattr(request.config, name) is None]
    if 0 < len(absent) < len(together):
        present = next(name for name in together if name not in absent)
        rule = f"must come together with {absent[0]} ({flag_of(absent[0])})"
        raise request.refusal(present, rule)
    if index is not None and count is not None and index >= count:
        raise request.refusal("process_id", f"must be below num_processes, {count}")


def _field_position(request: Request) -> tuple[float, ...] | None:
    config = request.config
    mass, position = "external_field_mass", "external_field_position"
    for one, other in ((mass, position), (position, mass)):
        if getattr(config, one) is not None and getattr(config, other) is None:
            raise request.refusal(one, f"must come together with {other} ({flag_of(other)})")
    where, dim = config.external_field_position, config.dim
    if where is not None and not LEAST_DISTANCE < math.hypot(*where) < 1 / LEAST_DISTANCE:
        rule = "must be away from the origin; the field is that of a distant point"
        raise request.refusal(position, rule)
    if where is None or len(where) == dim:
        return where
    if dim == 2 and len(where) == 3 and where[2] == 0:  # the torch system has it as X Y Z
        return where[:2]
    or_three = ", or 3 of which the last is 0" if dim == 2 else ""
    count = f"must be {dim} number{'s' * (dim > 1)} (dim is {dim}){or_three}"
    raise request.refusal(position, count)


def _check_output(request: Request) -> None:
    """Refuses times of output without a file, and two that contradict each other."""
    config = request.config
    for name in ("output_every", "output_times"):
        if request.sets(name) and config.output is None and not config.movie:
            raise request.refusal(name, "needs --output FILE, to which the states are written")
    if request.sets("output_every") and request.sets("output_times"):
        raise request.refusal("output_every", "and output_times both say when; give one of them")


def _check_binaries(request: Request) -> None:
    """Refuses binaries in other draws, and of the size of the sphere that they are to be in."""
    config = request.config
    if config.binaries == 0:
        return
    if config.draw != "plummer":
        raise request.refusal("binaries", "is for draw plummer (--draw plummer)")
    if not (request.sets("a_min") and request.sets("a_max")):
        rule = "needs a_min and a_max (--a-min 0.002 --a-max 0.05), in a sphere of size 1"
        raise request.refusal("binaries", rule)


def _check_band(request: Request) -> None:
    """Refuses a band that phase1 ignores."""
    config = request.config
    if config.phase1 == "torch" and config.band == "both" and request.sets("band"):
        rule = "is not for phase1 torch, which trains errors above the band alone"
        raise request.refusal("band", rule)


def _check_objective(request: Request) -> Request:
    """Refuses networks that the objective cannot train, and fills in what suits it."""
    suits = OBJECTIVES[request.config.objective]
    request = _for_weights(request, suits.weights)
    config = request.config
    if config.feature_type in NATIVE_FEATURES:
        if not suits.native:
            able = " or ".join(name for name, each in OBJECTIVES.items() if each.native)
            raise request.refusal("feature_type", f"needs objective {able} (--objective {able})")
        if config.history_len > 0 or config.normalize_inputs:
            rule = "goes without history_len and normalize_inputs; it is free of scale as it is"
            raise request.refusal("feature_type", rule)
    if not suits.schemes and not suits.weights and config.scheme != "leapfrog":
        able = " or ".join(name for name, each in OBJECTIVES.items() if each.schemes)
        rule = f"needs objective {able} (--objective {able}); the gate takes leapfrog steps"
        raise request.refusal("scheme", rule)
    if suits.no_dropout:
        if request.sets("dropout") and config.dropout > 0:
            rule = f"must be 0 with objective {config.objective}, {suits.no_dropout}"
            raise request.refusal("dropout", rule)
        request = request.replace(dropout=0.0)
    unset = {name: value for name, value in suits.values.items() if not request.sets(name)}
    return request.replace(**unset)


def suited_features(config: Config) -> str:
    """The feature type, unless one is set, for the objective and the bodies of a config."""
    suits = OBJECTIVES[config.objective]
    if suits.weights or not suits.native or config.history_len or config.normalize_inputs:
        return config.feature_type
    return ORBITAL if config.num_particles == 2 else ENCOUNTERS


def _for_weights(request: Request, weights: bool) -> Request:
    """Gives an objective that trains a few weights its inputs and scheme; refuses all others."""
    if weights:
        objective = f"objective {request.config.objective}"
        request = _one_of(request, "feature_type", tuple(OF_WEIGHTS), objective)
        inputs = request.config.feature_type
        return _one_of(request, "scheme", OF_WEIGHTS[inputs], f"{objective} and inputs {inputs}")
    if request.config.feature_type in OF_WEIGHTS:
        able = " or ".join(name for name, each in OBJECTIVES.items() if each.weights)
        raise request.refusal("feature_type", f"needs objective {able} (--objective {able})")
    return request


def _one_of(request: Request, name: str, values: tuple[str, ...], beside: str) -> Request:
    """The request with the first of the values, or the one that is set; others are refused."""
    if not request.sets(name):
        return request.replace(**{name: values[0]})
    if getattr(request.config, name) not in values:
        raise request.refusal(name, f"must be {' or '.join(values)} with {beside}")
    return request


def _check_scheme(request: Request) -> Request:
    """Pairs the scheme logarithmic with its rule, and refuses others on either."""
    own, config = "logarithmic-hamiltonian", request.config
    if config.controller == own:
        if request.sets("scheme") and config.scheme != "logarithmic":
            rule = f"is not for --controller {own}, which only the scheme logarithmic takes"
            raise request.refusal("scheme", rule)
        return request.replace(scheme="logarithmic")
    if config.scheme == "logarithmic":
        raise request.refusal("scheme", f"is for --controller {own} alone")
    return request


def _check_individual(request: Request) -> None:
    """Pairs individual steps with what can take them."""
    config, criteria = request.config, " or ".join(CRITERIA)
    if not config.individual:
        if config.controller in CRITERIA and config.controller != "learned":
            raise request.refusal("controller", "chooses each body's own step; add --individual")
        return
    if config.scheme != "hermite":
        raise request.refusal("individual", "needs --scheme hermite, the one that takes such steps")
    if config.controller not in CRITERIA:
        rule = f"needs a rule for each body's own step: --controller {criteria}"
        raise request.refusal("individual", rule)
    if config.symmetrize:
        raise request.refusal("symmetrize", "is for shared steps; --individual cannot be reversed")
    if config.distill:
        raise request.refusal("distill", "is for shared steps, not for --individual")


def _check_momentum(request: Request) -> None:
    """Refuses a momentum that the optimiser does not have."""
    if request.sets("momentum") and request.config.optimizer != "sgd":
        rule = f"must be left out with optimizer {request.config.optimizer}; only sgd has one"
        raise request.refusal("momentum", rule)


def _check_controller(request: Request) -> Request:
    """Refuses two choices of the step-size rule, unless one is a flag and the other in a file."""
    mode = request.sources.get("integrator_mode", "")
    controller = request.sources.get("controller", "")
    if mode and controller and mode.startswith("-") == controller.startswith("-"):
        rule = "and integrator_mode both choose the step-size rule; give one of them"
        raise request.refusal("controller", rule)
    if mode.startswith("-"):
        request = request.replace(controller=None)
    config = request.config
    request = _check_scheme(request)
    _check_individual(request)
    if request.sets("power") and config.controller != "power-law":
        raise request.refusal("power", "is for --controller power-law alone")
    mode_is_fixed = config.controller is None and config.integrator_mode == "analytic"
    is_fixed = mode_is_fixed or config.controller == "fixed"
    if request.sets("eta") and request.sets("dt") and is_fixed:
        raise request.refusal("eta", "and dt are both the constant dt; give one")
    return request
