"""One trial of a sweep: its choices, its training, and its value."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from jaxstepper.errors import UserError
from jaxstepper.runs.objectives import KINDS
from jaxstepper.runs.start import Start, complete, start_run
from jaxstepper.settings.command_line import combine
from jaxstepper.settings.config import Config, flag_of, matters
from jaxstepper.settings.request import Request
from jaxstepper.settings.sweep_space import Choice
from jaxstepper.settings.toml_file import Sourced
from jaxstepper.settings.values import nearest
from jaxstepper.sweep.seeds import SeedsResult, train_seeds
from jaxstepper.training.objective import Objective
from jaxstepper.training.run import Member

# Options of runs that are watched and resumed one by one.
NOT_TAKEN = ("wandb", "distributed", "coordinator", "resume", "overwrite", "detect_anomaly")
# Random completions of a choice that are tried before it is called impossible.
COMPLETIONS = 64


class TrialFailed(Exception):
    """A trial cannot be trained to its end; the message says why."""


class TrialPruned(Exception):
    """A trial is not worth continuing."""


class Interrupted(Exception):
    """A stop was asked for."""


@dataclass(frozen=True)
class Measure:
    """How trials are compared.

    Attributes:
        objective: the objective that is trained.
        metric: a metric of an epoch: one of the objective's `chosen_by`, or "epoch_time".
        last: the number of last epochs that it is averaged over.
        maximise: whether more is better.
    """

    objective: type[Objective]
    metric: str
    last: int = 10
    maximise: bool = False

    @property
    def worst(self) -> float:
        """The value of a seed that has failed."""
        return -math.inf if self.maximise else math.inf

    def of_seed(self, run: Member, epochs: int, skip: int = 0) -> float:
        """The mean over the last of `epochs` epochs, of which the first `skip` do not count."""
        rows = run.metrics[skip:epochs][-self.last :]
        if run.stopped in ("stuck", "not finite") or not rows:
            return self.worst
        value = sum(self.objective.value(self.metric, row) for row in rows) / len(rows)
        return value if math.isfinite(value) else self.worst

    def middle(self, values: Sequence[float]) -> int:
        """The index of the median; of two in the middle, that of the worse."""
        order = sorted(range(len(values)), key=values.__getitem__, reverse=self.maximise)
        return order[len(values) // 2]


@dataclass(frozen=True)
class Sweep:
    """The settings of a sweep.

    Attributes:
        fixed: the options that all trials share.
        choices: the options that each trial chooses.
        seeds: K, the seeds that a trial trains at once.
        measure: how trials are compared.
    """

    fixed: Sourced
    choices: list[Choice]
    seeds: int
    measure: Measure

    def request(self, chosen: Mapping[str, Any]) -> Request:
        """The request of a trial with these choices, without name and seed; raises as `combine`."""
        sources = {choice.name: choice.source for choice in self.choices}
        settings = {name: (value, sources[name]) for name, value in chosen.items()}
        return combine("train", self.fixed | settings, {})


class Trained(NamedTuple):
    """A trial that has been trained.

    Attributes:
        starts: its K runs before their first epoch.
        result: their results.
        values: `[K]`, their values.
        middle: the index of the median, which is the value of the trial.
    """

    starts: list[Start]
    result: SeedsResult
    values: list[float]
    middle: int


def make_measure(objective: str, minimise: str | None, maximise: str | None, last: int) -> Measure:
    """The metric to minimise or maximise, or the default; a UserError if there is no such one."""
    kind = KINDS[objective]
    known = (*kind.chosen_by, "epoch_time")
    metric = minimise or maximise or known[0]
    if metric not in known:
        hint = nearest(metric, known, f"there are {', '.join(known)}")
        flag = "--minimise" if minimise else "--maximise"
        raise UserError(f"{flag} {metric}: objective {objective} has no such metric; {hint}")
    return Measure(kind, metric, last, maximise is not None)


def check(sweep: Sweep) -> None:
    """Raises a UserError if some choice is impossible with all others, or there are no bodies."""
    for name in NOT_TAKEN:
        value, source = sweep.fixed.get(name, (None, ""))
        if value:
            raise UserError(f"{source} {name}: a sweep does not take it; leave it out")
    draw = random.Random(0)
    for choice in sweep.choices:
        for value in choice.ends:
            _check_choice(sweep, {choice.name: value}, draw)
    request = _check_choice(sweep, {}, draw)
    config = request.config
    if (config.seed or 0) + sweep.seeds > 2**32:
        raise UserError(f"--seeds {sweep.seeds}: from seed {config.seed} on, there are not so many")
    complete(request.replace(seed=config.seed or 0))


def _check_choice(sweep: Sweep, chosen: Mapping[str, Any], draw: random.Random) -> Request:
    """The request of a possible trial with these choices and others drawn at random."""
    problem: UserError | None = None
    for _ in range(COMPLETIONS):
        others = {each.name: draw.choice(each.ends) for each in sweep.choices}
        try:
            request = sweep.request({**others, **chosen})
            _check_imitation(request.config)
            return request
        except UserError as error:
            problem = error
    assert problem is not None
    raise problem


def _check_imitation(config: Config) -> None:
    if _uncounted(config) >= config.epochs:
        raise UserError(
            f"imitation_epochs ({flag_of('imitation_epochs')}) = {config.imitation_epochs}: "
            f"leaves none of the {config.epochs} epochs to compare trials by"
        )


def _uncounted(config: Config) -> int:
    """The epochs at the start that do not count, because they imitate free fall."""
    return config.imitation_epochs if matters(config, "imitation_epochs") else 0


def run_trial(sweep: Sweep, trial: Any, interrupted: Callable[[], bool] = lambda: False) -> Trained:
    """Chooses, trains, and reports every epoch to the `trial`, which is one of Optuna's.

    Raises:
        TrialFailed: it cannot be trained, or at least half of its seeds fail.
        TrialPruned: Optuna wants it pruned.
        Interrupted: a stop was asked for.
    """
    chosen = {choice.name: choice.suggest(trial) for choice in sweep.choices}
    try:
        request = sweep.request(chosen)
        config = request.config
        _check_imitation(config)
        seeds = [(config.seed or 0) + k for k in range(sweep.seeds)]
        starts = [start_run(request.replace(seed=seed), share=False) for seed in seeds]
        watch = _Watch(sweep.measure, trial, config)
        result = train_seeds(starts, request.sources, on_call=watch.look, interrupted=interrupted)
    except UserError as error:
        raise TrialFailed(str(error)) from error
    except jax.errors.JaxRuntimeError as error:  # such as a device whose memory is full
        raise TrialFailed(str(error).split("\n")[0][:200]) from error
    if any(run.stopped == "interrupted" for run in result.runs):
        raise Interrupted
    values = watch.values(result.runs, config.epochs)
    middle = sweep.measure.middle(values)
    if math.isinf(values[middle]):
        raise TrialFailed(_why(result.runs))
    return Trained(starts, result, values, middle)


@dataclass
class _Watch:
    """Reports to Optuna's trial the epochs that all its seeds have completed."""

    measure: Measure
    trial: Any
    config: Config
    reported: int = 0

    def values(self, runs: Sequence[Member], epochs: int) -> list[float]:
        skip = _uncounted(self.config)
        return [self.measure.of_seed(run, epochs, skip) for run in runs]

    def look(self, runs: Sequence[Member]) -> None:
        done = [len(run.metrics) for run in runs if not run.stopped]
        complete = min(done, default=max(len(run.metrics) for run in runs))
        for epoch in range(max(self.reported, _uncounted(self.config)), complete):
            values = self.values(runs, epoch + 1)
            value = values[self.measure.middle(values)]
            if math.isinf(value):
                raise TrialFailed(_why(runs))
            self.trial.report(value, epoch)
        self.reported = complete
        if complete < self.config.epochs and self.trial.should_prune():
            raise TrialPruned(f"epoch {complete - 1}")


def _why(runs: Sequence[Member]) -> str:
    """How the seeds ended, such as `2 of 3 seeds stuck`."""
    words = [run.stopped or "without a finite number" for run in runs]
    return ", ".join(
        f"{words.count(word)} of {len(runs)} seed{'s' * (len(runs) > 1)} {word}"
        for word in dict.fromkeys(words)
        if word != "without a finite number" or len(set(words)) == 1
    )
