"""`models`: lists the trained models, with what each is good for."""

import json
import textwrap
from pathlib import Path
from typing import Any

from jaxstepper.reporting.note import result
from jaxstepper.runs import checkpoints, folders
from jaxstepper.runs.domain import words_of_domain
from jaxstepper.runs.plans import weights_of
from jaxstepper.settings.command_parser import CommandParser, add_checkpoint_dir
from jaxstepper.settings.config import DERIVATIVES, NATIVE_FEATURES, PAIRS, SHARES, Config
from jaxstepper.settings.stored import from_dict
from jaxstepper.stepping.scheme import BY_NAME as SCHEMES

WIDTH = 100

EXAMPLES = (
    "jaxstepper models",
    "jaxstepper models --json",
    "jaxstepper simulate --model-path kepler --symmetrize -e 0.9",
)


def run_models(arguments: list[str]) -> int:
    """`models [--json]`; returns the exit code."""
    parser = CommandParser(
        prog="jaxstepper models",
        description="Lists the trained models that come with jaxstepper: what each was trained on, "
        "the domain in which its largest energy error was measured to stay within three times its "
        "tolerance (symmetrised, from apocentre; of clusters, that of Aarseth's criterion; of "
        "few_bodies and few_bodies_chin, in the median of 64 systems over 30 Henon units), "
        "and what a step costs. Below them, the runs in the folder of runs.",
        examples=EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a model")
    add_checkpoint_dir(parser)
    options = parser.parse_args(arguments)
    models = [_described(folders.SHIPPED / name) for name in folders.shipped()]
    if options.json:
        result(*map(json.dumps, models))
        return 0
    for model in models:
        result(_paragraph(model))
    if own := folders.runs_in(Path(options.checkpoint_dir)):
        result(f"runs in {options.checkpoint_dir}: {', '.join(own)}")
    return 0


def _described(run: Path) -> dict[str, Any]:
    """What a model says of itself."""
    path = folders.paths_of(run)[-1]
    words = checkpoints.words_of(path)
    config, _ = from_dict(words["config"])
    about = words["about"]
    return {
        "name": run.name,
        "trained_on": about.get("trained_on", ""),
        "domain": about.get("domain", {}),
        "scheme": config.scheme,
        "steps": "individual" if config.feature_type == DERIVATIVES else "shared",
        "force_evaluations_per_step": SCHEMES[config.scheme].evaluations,
        "network_weights": weights_of(config),
        "network_passes_per_step": _passes(config),
        "path": str(path),
    }


def _passes(config: Config) -> str:
    """How many passes of the network a step takes."""
    if config.feature_type in (PAIRS, SHARES):
        return "one a pair"
    per_body = NATIVE_FEATURES if config.num_particles > 2 else (DERIVATIVES,)
    return "one a body" if config.feature_type in per_body else "one"


def _paragraph(model: dict[str, Any]) -> str:
    count, weights = model["force_evaluations_per_step"], model["network_weights"]
    times = model["network_passes_per_step"].replace("one", "once")
    forces = f"{count} evaluation{'s' * (count > 1)} of forces"
    lines = {
        "trained on": model["trained_on"],
        "good for": words_of_domain(model),
        "a step": f"{model['scheme']}, {model['steps']} steps: {forces}, and a network of "
        f"{weights:,} weights {times}",
    }
    told = [
        textwrap.fill(f"  {name:<11}{text}", WIDTH, subsequent_indent=" " * 13)
        for name, text in lines.items()
    ]
    return "\n".join([model["name"], *told, ""])
