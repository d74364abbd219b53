"""The arguments of `evaluate`."""

import argparse
from typing import Any

from jaxstepper.evaluation.individual import AARSETH
from jaxstepper.evaluation.problems import KEPLER, NAMES, THREE_BODIES
from jaxstepper.evaluation.rebound_peers import IAS15, REBOUND_LEAPFROG
from jaxstepper.evaluation.run import LEAPFROG, LOGARITHMIC
from jaxstepper.evaluation.work_precision import TARGETS
from jaxstepper.settings.command_parser import CommandParser, add_checkpoint_dir, value_of
from jaxstepper.settings.values import COUNT, NOT_NEGATIVE, PATH, POSITIVE, integer
from jaxstepper.stepping import literature as rules
from jaxstepper.stepping.scheme import BY_NAME

PEERS = (IAS15, REBOUND_LEAPFROG)
RULES = (*rules.BY_NAME, "power-law", AARSETH, *PEERS)
SCHEMES = tuple(name for name in BY_NAME if name != LOGARITHMIC)
# These are judged in both forms; --symmetrize-all asks that of all.
SYMMETRIZED = ("free-fall", "power-law", "learned")
LONGEST, SHORTEST = 32.0, 0.0625
FULL: dict[str, Any] = {
    "problems": [*KEPLER, *THREE_BODIES],
    "num_factors": 15,
    "orbits": 100.0,
    "max_steps": 2_000_000,
}
EXAMPLES = (
    "jaxstepper evaluate --quick --model kepler",
    "jaxstepper evaluate --problems kepler-0.9 --rules free-fall huayno --schemes leapfrog chin",
    "jaxstepper evaluate --problems planets.csv --units au yr Msun --end-time 10",
)
QUICK: dict[str, Any] = {
    "problems": ["kepler-0.5", "kepler-0.9", "figure-eight"],
    "num_factors": 7,
    "orbits": 10.0,
    "max_steps": 50_000,
}


def parse_evaluate(arguments: list[str]) -> argparse.Namespace:
    """The options of `evaluate`, with defaults for those that were not given."""
    parser = CommandParser(
        prog="jaxstepper evaluate",
        description="Runs step-size rules on schemes, each with a sweep of factors on its steps, "
        "and writes runs.csv (every run), summary.json (evaluations and seconds needed for an "
        "error, ratios to the best with 95 % intervals) and work-precision.png.",
        examples=EXAMPLES,
    )
    _add_methods(parser)
    _add_problems(parser)
    _add_sweep(parser)
    _add_where(parser)
    options = parser.parse_args(arguments)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.targets = sorted(set(options.targets), reverse=True)
    return options


def _add_methods(parser: CommandParser) -> None:
    parser.add_argument(
        "--rules",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(RULES)}; power-law:P for a power of your own; default: all that "
        f"can run but {REBOUND_LEAPFROG}, and the models; {AARSETH} has individual steps on "
        "hermite, by default with more than a few bodies",
    )
    parser.add_argument(
        "--schemes",
        nargs="+",
        choices=SCHEMES,
        default=[LEAPFROG],
        metavar="NAME",
        help=f"of {', '.join(SCHEMES)}: every rule runs on every one on which it can; the "
        f"logarithmic Hamiltonian has its own; default: {LEAPFROG}",
    )
    parser.take(
        "--model",
        allowed=PATH,
        action="append",
        default=[],
        metavar="PATH",
        help="a trained network as one more rule: a run, RUN/EPOCH or FILE.pt; may be repeated",
    )
    add_checkpoint_dir(parser)
    parser.add_argument(
        "--distill",
        action="store_true",
        help="judge every network of inputs orbital, eccentric or encounters with polynomials in "
        "its place, too, which take less time",
    )
    parser.take(
        "--fastest",
        allowed=integer(0),
        metavar="K",
        help="judge every network of inputs encounters with its K fastest bodies alone, too, which "
        "takes less time; 0: with all",
    )
    parser.add_argument(
        "--symmetrize-all",
        action="store_true",
        help="judge every rule that can be symmetrised in that form too, not only "
        f"{', '.join(SYMMETRIZED)}",
    )


def _add_problems(parser: CommandParser) -> None:
    parser.add_argument(
        "--problems",
        nargs="+",
        metavar="NAME",
        help=f"{NAMES}, as simulate --ic-path reads it, or the last states of an --output; "
        f"default: {' '.join(FULL['problems'])}; planet-in-binary is judged by the position at the "
        "end",
    )
    parser.take(
        "--orbits",
        allowed=POSITIVE,
        metavar="X",
        help="that pairs, the outer body of triple and the planet run; default: 100",
    )
    parser.take("--end-time", allowed=POSITIVE, metavar="T", help="of every problem instead")
    parser.add_argument(
        "--units",
        nargs="+",
        metavar="UNIT",
        help="of the bodies of files and of --end-time, such as au yr Msun; G = 1 without",
    )
    parser.take("--G", allowed=POSITIVE, metavar="X", help="gravitational constant, instead")
    words = "of the force on bodies of files (default: 0)"
    parser.take("--softening", allowed=NOT_NEGATIVE, metavar="X", help=words)
    parser.take(
        "--systems",
        allowed=COUNT,
        metavar="N",
        help="drawn for each of triples, triples-unequal, virial-N (default: 64), plummer-N (10)",
    )
    parser.take(
        "--seed",
        allowed=integer(0),
        default=0,
        metavar="N",
        help="of drawn systems; whatever it is, no training draws the same",
    )


def _add_sweep(parser: CommandParser) -> None:
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
        help=f"this many from {LONGEST:g} to {SHORTEST:g}, times the evaluations of a step; "
        f"default: {FULL['num_factors']}; with many bodies or systems, each rule tries them from "
        "the largest until its errors are below all targets",
    )
    parser.take(
        "--targets",
        nargs="+",
        allowed=POSITIVE,
        default=list(TARGETS),
        metavar="X",
        help="errors to be reached; default: " + " ".join(f"{each:g}" for each in TARGETS),
    )
    parser.take(
        "--max-steps",
        allowed=COUNT,
        metavar="N",
        help="a run that needs more fails; default: 2e6",
    )
    parser.add_argument(
        "--time",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time each rule at the factors that reach the targets: three systems of a problem, "
        "alone and one after the other, compiled and without measurements",
    )
    parser.take(
        "--batch",
        allowed=COUNT,
        default=1,
        metavar="N",
        help="time N systems of a problem side by side, over and over if it has fewer, in place of "
        "three alone; seconds are then those of one of them",
    )
    parser.add_argument(
        "--quick", action="store_true", help="three problems, ten orbits, seven factors"
    )


def _add_where(parser: CommandParser) -> None:
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "gpu", "tpu"))
    parser.add_argument(
        "--compilation-cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep compiled programs on disk for this user's next runs",
    )
    parser.take(
        "--out",
        allowed=PATH,
        default="evaluation",
        metavar="DIR",
        help="folder to write to (default: evaluation)",
    )
