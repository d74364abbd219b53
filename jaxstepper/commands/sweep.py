"""`sweep`: its arguments, its words, and the run of the best trial."""

import json
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jaxstepper.commands.signals import stop_on_signal
from jaxstepper.errors import UserError
from jaxstepper.physics.conservation import finite_or_none
from jaxstepper.reporting.note import note, result
from jaxstepper.runs import folders
from jaxstepper.runs.places import check_folder_place
from jaxstepper.runs.resume import HARMLESS
from jaxstepper.settings.command_parser import CommandParser
from jaxstepper.settings.config import Config, flag_of, read_option
from jaxstepper.settings.request import Request
from jaxstepper.settings.toml_file import Sourced, read_sweep, read_toml
from jaxstepper.settings.values import COUNT, PATH
from jaxstepper.sweep.kept_runs import claim, export_run, keep_run, remove_others
from jaxstepper.sweep.study import Row, Study, import_optuna, open_study
from jaxstepper.sweep.trial import Interrupted, Sweep, check, make_measure, run_trial

DESCRIPTION = """\
Trains with choices of the table [sweep] of a TOML file, and keeps the best. The rest of the file is
what train --config takes. In the table, a list names values, and {low = .., high = ..} a range:

  [sweep]
  lr = {low = 1e-4, high = 1e-2, log = true}
  hidden_dims = [[32, 32], [64, 64]]

A trial is what its seeds come to: the median of the metric's mean over the last epochs; a seed that
is stuck or not finite counts as the worst. Unpromising trials are pruned. The same command goes on
where the last one ended, until --trials have ended in all; a trial that was killed is run again
once it has not been heard of for a minute."""

EPILOG = """\
evaluations_per_time, the default of objective gate, is what phase 1 pays for a unit of simulated
time in force evaluations, those of refused attempts included. All accepted steps are within the
energy threshold, so that a lower number is less work at the same safety. relative_work, the default
of objective window, is work at equal energy error over that of the symmetrised free-fall rule.

Several processes and machines share the trials if they run the same command with one --storage,
such as postgresql://USER@HOST/DB (whose driver must be installed); on one machine they need none.

Standard output is one JSON object: the best trial's value, values of its seeds, params, the run
that is kept of its median seed (for --model-path), its .pt file and the command that trains it
anew. The rest goes to standard error."""

EXAMPLES = (
    "jaxstepper sweep --config sweep --trials 8 --seeds 2",
    "jaxstepper sweep --config my.toml --minimise relative_work --last 5",
    "jaxstepper sweep --config my.toml --storage postgresql://me@host/db",
)

SHOWN = 5


def run_sweep(arguments: list[str]) -> int:
    """`sweep --config FILE [flags]`; returns the exit code."""
    options = _parser().parse_args(arguments)
    sweep, request = _read(options)
    config = request.config
    name = options.save_name or config.save_name
    if name is None:
        raise UserError("--save-name: a sweep needs a name, here or in the file")
    folder = Path(options.checkpoint_dir or config.checkpoint_dir) / name
    if folders.paths_of(folder):
        raise UserError(f"{folder}: is a run; --save-name names the sweep otherwise")
    check(sweep)
    import_optuna()
    check_folder_place(folder, str(folder))
    url = options.storage or f"sqlite:///{folder / 'study.db'}"
    if options.storage is None:
        folder.mkdir(parents=True, exist_ok=True)
    say = partial(note, quiet=options.quiet or config.quiet)
    measure, warmup = sweep.measure, config.epochs // 4
    with (
        stop_on_signal() as stopped,
        open_study(url, name, _about(sweep), measure.maximise, warmup) as study,
    ):
        claim(folder, options.storage)
        say(
            f"sweep {name}: {study.counts().ended} of {options.trials} trials have ended; "
            f"{'maximises' if measure.maximise else 'minimises'} {measure.metric}; in {url}"
        )

        def objective(trial: Any) -> float:
            trained = run_trial(sweep, trial, lambda: stopped() > 0)
            trial.set_user_attr("values", finite_or_none(trained.values))
            trial.set_user_attr("seed", trained.starts[trained.middle].config.seed)
            value, best = trained.values[trained.middle], study.best()
            if not best or (value > best[0].value if measure.maximise else value < best[0].value):
                trial.set_user_attr("run", keep_run(folder, trial.number, trained, request.sources))
            return value

        def on_end(number: int, how: str, why: str) -> None:
            say(f"trial {number}: {_outcome(study, number, how, why)}")
            remove_others(folder, study)

        try:
            study.run(options.trials, objective, on_end)
        except Interrupted:
            say("interrupted; the same command goes on")
        return _report(sweep, options.config, name, study, say)


def _outcome(study: Study, number: int, how: str, why: str) -> str:
    if how != "complete":
        return f"pruned after {why}" if how == "pruned" else f"failed, {why}"
    row = next(row for row in study.best() if row.number == number)
    words = "best so far, " if study.best()[0].number == number else ""
    return f"{words}{row.value:.6g} with {_listed(row.params)}"


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="jaxstepper sweep", description=DESCRIPTION, epilog=EPILOG, examples=EXAMPLES
    )
    words = "TOML file with a table [sweep], or the name of one that comes with jaxstepper"
    parser.take("--config", allowed=PATH, required=True, metavar="FILE", help=words)
    parser.take("--trials", allowed=COUNT, default=20, help="in all (default: 20)")
    parser.take(
        "--seeds",
        allowed=COUNT,
        default=1,
        metavar="K",
        help="that each trial trains at once, from the file's seed (else 0) on; on a CPU those of "
        "objective gate take turns, which is faster there (default: 1)",
    )
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument(
        "--minimise",
        metavar="METRIC",
        help="of an epoch, as in metrics.jsonl (default: evaluations_per_time for objective gate, "
        "relative_work for window)",
    )
    goal.add_argument("--maximise", metavar="METRIC", help="likewise")
    words = "epochs that count (default: 10)"
    parser.take("--last", allowed=COUNT, default=10, metavar="E", help=words)
    parser.add_argument(
        "-s", "--save-name", metavar="NAME", help="of the sweep; else the file's save_name"
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="database of the trials (default: sqlite:///CHECKPOINT_DIR/NAME/study.db)",
    )
    words = "folder that holds the runs"
    parser.take("--checkpoint-dir", allowed=PATH, metavar="DIR", help=words)
    return parser


def _read(options: Any) -> tuple[Sweep, Request]:
    """The sweep that is asked for, and the options that all its trials share."""
    if options.save_name is not None:
        read_option("save_name", options.save_name, "--save-name")
    choices = read_sweep(options.config)
    swept = {choice.name for choice in choices}
    file: Sourced = read_toml(options.config)["train"]
    fixed = {name: setting for name, setting in file.items() if name not in swept}
    config = Config(**{name: value for name, (value, _) in fixed.items()})
    measure = make_measure(config.objective, options.minimise, options.maximise, options.last)
    sources = {name: source for name, (_, source) in file.items()} | dict.fromkeys(swept, "")
    return Sweep(fixed, choices, options.seeds, measure), Request(config, sources)


def _about(sweep: Sweep) -> dict[str, Any]:
    """What makes trials comparable, as JSON."""
    measure = sweep.measure
    kept = {"epochs", "max_retrain_steps"}
    fixed = {
        name: list(value) if isinstance(value, tuple) else value
        for name, (value, _) in sweep.fixed.items()
        if name not in HARMLESS - kept
    }
    return {
        "table [sweep]": {choice.name: choice.describe() for choice in sweep.choices},
        "config": fixed,
        "measure": {"metric": measure.metric, "last": measure.last, "maximise": measure.maximise}
        | {"seeds": sweep.seeds},
    }


def _report(sweep: Sweep, file: str, name: str, study: Study, say: Callable[[str], None]) -> int:
    """The table and the JSON of the best trials; returns the exit code."""
    rows, counts = study.best()[:SHOWN], study.counts()
    ended = f"{counts.complete} complete, {counts.pruned} pruned, {counts.failed} failed"
    if not rows:
        note(
            f"no trial is complete ({ended}); the lines above, or a run with --trials more, say why"
        )
        return 1
    say(f"{ended}; the best, by {sweep.measure.metric}:")
    for row in rows:
        say(f"  trial {row.number:<4} {row.value:<12.6g} {_listed(row.params)}")
    best = rows[0]
    run = str(best.about.get("run"))
    here = Path(run).is_dir()
    report = {
        "sweep": name,
        "metric": sweep.measure.metric,
        **counts._asdict(),
        "trial": best.number,
        "value": best.value,
        "values": best.about["values"],
        "params": _params(sweep, best),
        "seed": best.about.get("seed"),
        "run": run if here else None,
        "export": export_run(Path(run)) if here else None,
        "command": _command(sweep, file, name, best),
    }
    say(f"its run is {run}" if here else f"its run is not here; it was to be {run}")
    say(f"trains it anew: {report['command']}")
    result(json.dumps(report))
    return 0


def _params(sweep: Sweep, row: Row) -> dict[str, Any]:
    """The checked values of what a trial chose."""
    chosen = {choice.name: choice.of_label(row.params[choice.name]) for choice in sweep.choices}
    return {n: list(value) if isinstance(value, tuple) else value for n, value in chosen.items()}


def _command(sweep: Sweep, file: str, name: str, row: Row) -> str:
    """The command line that trains the kept run of a trial again."""
    words = ["jaxstepper", "train", "--config", file, "--seed", str(row.about.get("seed"))]
    for key, value in _params(sweep, row).items():
        flag = flag_of(key)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag[2:]}")
        else:
            values = value if isinstance(value, list) else [value]
            words += [flag, *map(str, values)]
    return shlex.join([*words, "--save-name", f"{name}-{row.number}"])


def _listed(params: Mapping[str, Any]) -> str:
    shown = {n: f"{v:.4g}" if isinstance(v, float) else v for n, v in params.items()}
    return ", ".join(f"{name} = {value}" for name, value in shown.items())
