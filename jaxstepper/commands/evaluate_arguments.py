"""The arguments of `evaluate`, and the rules that they name."""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.evaluation import ias15 as reference
from jaxstepper.evaluation.problems import KEPLER, NAMES, THREE_BODIES
from jaxstepper.physics.gravity import Gravity
from jaxstepper.reporting.note import note
from jaxstepper.runs.models import TrainedModel, load_model, rule_of_model
from jaxstepper.settings.command_parser import CommandParser, add_checkpoint_dir, value_of
from jaxstepper.settings.stored import from_dict
from jaxstepper.settings.values import COUNT, PATH, POSITIVE, integer
from jaxstepper.stepping import literature as rules
from jaxstepper.stepping.rule import Rule

POWERS = (1.0, 1.25)
RULES = (*rules.BY_NAME, "power-law", reference.NAME)
# These are judged in both forms; --symmetrize-all asks that of all.
SYMMETRIZED = ("free-fall", "power-law", "learned")
LONGEST, SHORTEST = 32.0, 0.0625
FULL: dict[str, Any] = {
    "problems": [*KEPLER, *THREE_BODIES],
    "num_factors": 15,
    "orbits": 100.0,
    "max_steps": 2_000_000,
}
QUICK: dict[str, Any] = {
    "problems": ["kepler-0.5", "kepler-0.9", "figure-eight"],
    "num_factors": 7,
    "orbits": 10.0,
    "max_steps": 50_000,
}


@dataclass(frozen=True, eq=False)
class Candidate:
    """A rule to judge.

    Attributes:
        name: the name of the rule.
        model: the network of a learned rule.
        power: the exponent of a power law.
    """

    name: str
    model: TrainedModel | None = None
    power: float | None = None

    def controller(self, gravity: Gravity) -> Rule:
        """The rule at factor 1."""
        if self.model is not None:
            config, _ = from_dict(self.model.config)
            return rule_of_model(replace(config, dtype="float64"), self.model, gravity)
        if self.power is not None:
            return rules.by_name("power-law", gravity, power=self.power)
        return rules.by_name(self.name, gravity)


def parse_evaluate(arguments: list[str]) -> argparse.Namespace:
    """The options of `evaluate`, with defaults for those that were not given."""
    parser = CommandParser(
        prog="jaxstepper evaluate",
        description="Runs step-size rules, each with a sweep of factors on its steps, and writes "
        "runs.csv (every run), summary.json (evaluations needed for an error, ratio to the best) "
        "and work-precision.png.",
    )
    parser.add_argument(
        "--problems",
        nargs="+",
        metavar="NAME",
        help=f"{NAMES}; default: {' '.join(FULL['problems'])}",
    )
    parser.add_argument(
        "--rules",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(RULES)}; power-law:P for a power of your own; default: all that "
        "can run, and the models",
    )
    parser.add_argument(
        "--model",
        type=value_of(PATH),
        action="append",
        default=[],
        metavar="PATH",
        help="a trained network as one more rule: a run, RUN/EPOCH or FILE.pt; may be repeated",
    )
    add_checkpoint_dir(parser)
    parser.add_argument(
        "--symmetrize-all",
        action="store_true",
        help="judge every rule that can be symmetrised in that form too, not only "
        f"{', '.join(SYMMETRIZED)}",
    )
    sweep = parser.add_mutually_exclusive_group()
    sweep.add_argument(
        "--factors",
        nargs="+",
        type=value_of(POSITIVE),
        metavar="X",
        help="on the steps of every rule",
    )
    sweep.add_argument(
        "--num-factors",
        type=value_of(integer(2)),
        metavar="N",
        help=f"this many from {LONGEST:g} to {SHORTEST:g}; default: {FULL['num_factors']}; with "
        "many bodies, each rule tries them from the largest until its errors are below all targets",
    )
    parser.add_argument(
        "--orbits", type=value_of(POSITIVE), metavar="X", help="that pairs run; default: 100"
    )
    parser.add_argument(
        "--end-time", type=value_of(POSITIVE), metavar="T", help="of every problem instead"
    )
    parser.add_argument(
        "--max-steps",
        type=value_of(COUNT),
        metavar="N",
        help="a run that needs more fails; default: 2e6",
    )
    parser.add_argument(
        "--seed", type=value_of(integer(0)), default=0, metavar="N", help="of Plummer spheres"
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "gpu", "tpu"))
    parser.add_argument(
        "--compilation-cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep compiled programs on disk for this user's next runs",
    )
    parser.add_argument(
        "--quick", action="store_true", help="three problems, ten orbits, seven factors"
    )
    parser.add_argument(
        "--out",
        type=value_of(PATH),
        default="evaluation",
        metavar="DIR",
        help="folder to write to (default: evaluation)",
    )
    options = parser.parse_args(arguments)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.factors is None:
        options.factors = np.geomspace(LONGEST, SHORTEST, options.num_factors).tolist()
    return options


def candidates(options: argparse.Namespace) -> list[Candidate]:
    """The rules that were asked for, the models last."""
    found = []
    for name in options.rules if options.rules is not None else RULES:
        base, _, power = name.partition(":")
        if base == "power-law":
            powers = (_power(name, power),) if power else POWERS
            found += [Candidate(f"power-law:{each:g}", power=each) for each in powers]
        elif name not in RULES:
            raise UserError(
                f"--rules {name}: there is no such rule; choose from {', '.join(RULES)}"
            )
        elif name == reference.NAME and not reference.is_installed():
            note("ias15 is left out: it needs pip install 'jaxstepper[rebound]'")
        else:
            found.append(Candidate(name))
    for path in options.model:
        model = load_model(path, options.checkpoint_dir)
        name = f"learned:{Path(path).stem}"
        taken = any(each.name == name for each in found)
        found.append(Candidate(f"learned:{path}" if taken else name, model=model))
    return list({each.name: each for each in found}.values())


def _power(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"--rules {name}: {text} is not a power; try power-law:1.25") from error
