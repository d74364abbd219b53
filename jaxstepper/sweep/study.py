"""The study of a sweep: its trials, in a database. Nothing else imports Optuna."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from jaxstepper.errors import needing
from jaxstepper.settings.values import line_error
from jaxstepper.sweep.trial import Interrupted, TrialFailed, TrialPruned

# Seconds between signs of life of a process, and without one before its trial is run again.
HEARTBEAT, GRACE = 10, 60
# How often a trial is run again, and how often opening the database is tried.
MOST_RETRIES, OPENINGS = 2, 10
# Trials that run to their end before others are pruned by comparison.
FIRST_TRIALS = 5
WHY, ABOUT = "why", "sweep"


class Counts(NamedTuple):
    """The number of trials by how they ended. Killed ones run again, and do not count."""

    complete: int
    pruned: int
    failed: int

    @property
    def ended(self) -> int:
        return sum(self)


class Row(NamedTuple):
    """A complete trial."""

    number: int
    value: float
    params: dict[str, Any]
    about: dict[str, Any]


@contextmanager
def open_study(
    url: str, name: str, about: Mapping[str, Any], maximise: bool, warmup: int
) -> Iterator["Study"]:
    """The study of this name: a new one, or the one that exists.

    Args:
        url: the database.
        name: the name of the sweep.
        about: the settings of the sweep, as JSON; must be those that the study began with.
        maximise: whether more is better.
        warmup: epochs at the start of a trial that are not compared.

    Raises:
        UserError: the database cannot be opened, or the study began with other settings.
    """
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # `on_end` reports trials instead
    storage = _open_storage(optuna, url)
    try:
        study = optuna.create_study(
            storage=storage,
            sampler=optuna.samplers.TPESampler(),
            pruner=optuna.pruners.MedianPruner(FIRST_TRIALS, warmup),
            study_name=name,
            direction="maximize" if maximise else "minimize",
            load_if_exists=True,
        )
        _check_same(study, name, json.loads(json.dumps(about)))
        yield Study(study)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _open_storage(optuna: Any, url: str) -> Any:
    """The database, with its tables.

    Another process may create the tables at the same moment, so a failure is tried again.
    """
    from sqlalchemy.exc import SQLAlchemyError

    problem: Exception | None = None
    for _ in range(OPENINGS):
        try:
            with warnings.catch_warnings(action="ignore"):  # heartbeats are called experimental
                return optuna.storages.RDBStorage(
                    url,
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=(
                        optuna.storages.RetryHeartbeatStaleTrialCallback(MOST_RETRIES)
                    ),
                )
        except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
            problem = error
    first = str(problem).split("\n")[0]
    raise line_error(f"--storage {url}: cannot be opened ({first[:120]})") from problem


def import_optuna() -> Any:
    """Optuna; a UserError if it is not installed."""
    with needing("a sweep needs Optuna: pip install 'jaxstepper[sweep]'"):
        import optuna
    return optuna


def _check_same(study: Any, name: str, about: dict[str, Any]) -> None:
    before = study.user_attrs.get(ABOUT)
    if before is None:
        study.set_user_attr(ABOUT, about)
        return
    for part in about:
        changed = [
            f"{key} = {_words(about[part].get(key))} (was {_words(before[part].get(key))})"
            for key in {**before[part], **about[part]}
            if about[part].get(key) != before[part].get(key)
        ]
        if changed:
            raise line_error(
                f"sweep {name} was begun with another {part}: {', '.join(changed)}; put that back "
                "to go on, or begin another with --save-name"
            )


def _words(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)


class Study:
    """The trials of a sweep, by all processes that work on it."""

    def __init__(self, study: Any) -> None:
        self._study = study

    def run(
        self,
        trials: int,
        objective: Callable[[Any], float],
        on_end: Callable[[int, str, str], None],
    ) -> None:
        """Runs trials, one after the other, until `trials` have ended.

        Args:
            trials: the number in all, including those of other processes and earlier calls.
            objective: trains a trial and returns its value. It may raise `TrialFailed`,
                `TrialPruned`, or `Interrupted`, which puts the trial back into the queue.
            on_end: gets the number of a trial that ended, how it ended ("complete", "pruned" or
                "fail"), and why.
        """
        optuna = import_optuna()

        def run_one(trial: Any) -> float:
            try:
                return objective(trial)
            except TrialPruned as error:
                trial.set_user_attr(WHY, str(error))
                raise optuna.TrialPruned(str(error)) from error
            except TrialFailed as error:
                trial.set_user_attr(WHY, str(error))
                raise
            except Interrupted:
                self._study.enqueue_trial(trial.params)
                raise

        def tell(study: Any, trial: Any) -> None:
            on_end(trial.number, trial.state.name.lower(), trial.user_attrs.get(WHY, ""))

        try:
            while self.counts().ended < trials:
                self._study.optimize(run_one, 1, catch=(TrialFailed,), callbacks=[tell])
        except optuna.exceptions.StorageInternalError as error:
            why = str(error.__cause__ or error).split("\n")[0]
            raise line_error(f"the database of the trials fails ({why[:120]})") from error

    def counts(self) -> Counts:
        """The number of trials that have ended."""
        trials = self._study.get_trials(deepcopy=False)
        states = [t.state.name for t in trials if t.state.name != "FAIL" or WHY in t.user_attrs]
        return Counts(*(states.count(name) for name in ("COMPLETE", "PRUNED", "FAIL")))

    def best(self) -> list[Row]:
        """The complete trials, best first."""
        maximise = self._study.direction.name == "MAXIMIZE"
        rows = [
            Row(trial.number, trial.value, trial.params, trial.user_attrs)
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.name == "COMPLETE"
        ]
        return sorted(rows, key=lambda row: (-row.value if maximise else row.value, row.number))

    def is_over(self, number: int) -> bool:
        """Whether a trial has ended in any way."""
        trials = self._study.get_trials(deepcopy=False)
        return number >= len(trials) or trials[number].state.is_finished()
