"""The study of a sweep: its trials, kept in a database. The only import of Optuna."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from jaxstepper.errors import UserError
from jaxstepper.settings.values import line_error
from jaxstepper.sweep.trial import Interrupted, TrialFailed, TrialPruned

# A process that has not been heard of for so many seconds is dead, and its trial is run again.
HEARTBEAT, GRACE = 10, 60
MOST_RETRIES = 2
OPENINGS = 10
# Trials that run to their end before others are compared with them.
FIRST_TRIALS = 5
WHY, ABOUT = "why", "sweep"


class Counts(NamedTuple):
    """Trials by how they ended; those that were killed are run again, and not counted."""

    complete: int
    pruned: int
    failed: int

    @property
    def ended(self) -> int:
        return sum(self)


class Row(NamedTuple):
    """A trial that is complete."""

    number: int
    value: float
    params: dict[str, Any]
    about: dict[str, Any]


@contextmanager
def open_study(
    url: str, name: str, about: Mapping[str, Any], maximise: bool, warmup: int
) -> Iterator["Study"]:
    """The study of this name, a new one or one to go on with.

    Args:
        url: of the database.
        name: of the sweep.
        about: what the sweep asks, as JSON; must be what it was when the study began.
        maximise: whether more is better.
        warmup: epochs of a trial that are not compared.

    Raises:
        UserError: there is no such database, or the study asks for something else.
    """
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # `on_end` says what its lines would
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
    """The database; its tables are made if they are not there.

    Another process may be making them at the same time, and win; so there are some attempts.
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
    """Optuna.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("a sweep needs Optuna: pip install 'jaxstepper[sweep]'") from error
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
    """The trials of a sweep, of all processes that work on it."""

    def __init__(self, study: Any) -> None:
        self._study = study

    def run(
        self,
        trials: int,
        objective: Callable[[Any], float],
        on_end: Callable[[int, str, str], None],
    ) -> None:
        """Runs trials, one after the other, until so many have ended in all.

        Args:
            trials: in all, those of other processes and of earlier times included.
            objective: trains a trial, and returns its number; may raise `TrialFailed`,
                `TrialPruned`, or `Interrupted`, after which the trial waits to be run again.
            on_end: told the number of each trial that ended, how ("complete", "pruned", "fail"),
                and why.
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
        """The trials that have ended."""
        trials = self._study.get_trials(deepcopy=False)
        states = [t.state.name for t in trials if t.state.name != "FAIL" or WHY in t.user_attrs]
        return Counts(*(states.count(name) for name in ("COMPLETE", "PRUNED", "FAIL")))

    def best(self) -> list[Row]:
        """The trials that are complete, the best first."""
        maximise = self._study.direction.name == "MAXIMIZE"
        rows = [
            Row(trial.number, trial.value, trial.params, trial.user_attrs)
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.name == "COMPLETE"
        ]
        return sorted(rows, key=lambda row: (-row.value if maximise else row.value, row.number))

    def is_over(self, number: int) -> bool:
        """Whether a trial has ended, in whatever way."""
        trials = self._study.get_trials(deepcopy=False)
        return number >= len(trials) or trials[number].state.is_finished()
