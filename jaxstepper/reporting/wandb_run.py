"""Weights & Biases: a run's metrics, summary, artifacts and figures."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxstepper.errors import UserError
from jaxstepper.machine.processes import is_main
from jaxstepper.reporting.note import note
from jaxstepper.settings.config import Config, to_dict
from jaxstepper.training.objective import Objective
from jaxstepper.training.run import Result


class WandbRun:
    """A run of Weights & Biases; does nothing when it is off."""

    def __init__(self, run: Any = None) -> None:
        self._run = run

    @property
    def is_on(self) -> bool:
        """Whether there is one."""
        return self._run is not None

    @property
    def id(self) -> str | None:
        """By which a resumed run goes on in the same place."""
        return None if self._run is None else self._run.id

    @property
    def place(self) -> str:
        """Where it is to be seen: its page, or its folder if it is offline."""
        if self._run is None:
            return ""
        return str(Path(self._run.dir).parent) if self._run.offline else str(self._run.url)

    def log(self, values: Mapping[str, Any]) -> None:
        """Logs some values."""
        if self._run is not None:
            self._run.log(dict(values))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Keeps what training came to."""
        if self._run is not None:
            self._run.summary.update(dict(values))

    def figure(self, name: str, picture: Path) -> None:
        """Logs a picture file."""
        if self._run is not None:
            import wandb

            self._run.log({name: wandb.Image(str(picture))})

    def keep(self, name: str, kind: str, *paths: Path) -> None:
        """Keeps files, and what is in folders, as a new version of the artifact of this name."""
        if self._run is None:
            return
        import wandb

        artifact = wandb.Artifact(re.sub(r"[^a-zA-Z0-9_.-]", "-", name), type=kind)
        for path in paths:
            # File by file, for adding a folder speaks of it.
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file():
                    artifact.add_file(str(file), name=str(file.relative_to(path.parent)))
        self._run.log_artifact(artifact)


def summary_values(objective: Objective, result: Result) -> dict[str, Any]:
    """What training came to, for the summary of its run."""
    outcomes = objective.summary(result.state, result.metrics)
    return {
        "epochs": result.epochs,
        "total_time": result.total_time,
        "stopped": result.stopped or "completed",
        **{each.key: each.value for each in outcomes},
    }


@contextmanager
def open_wandb(
    config: Config,
    default_name: str = "runner_train",
    run_id: str | None = None,
    step: str | None = None,
) -> Iterator[WandbRun]:
    """A W&B run if the config asks for one; finished on leaving, also when training fails.

    Args:
        config: of the run.
        default_name: where neither --wandb-name nor --save-name says more.
        run_id: of the run to go on with.
        step: the metric that all others are drawn against; else W&B's count of logs.

    Raises:
        UserError: wandb is not installed, or cannot reach its server.
    """
    if not (config.wandb and is_main()):
        if config.wandb_artifacts:
            note("--wandb-artifacts: nothing is kept without --wandb")
        yield WandbRun()
        return
    try:
        import wandb  # 1.5 s, so only when it is asked for
    except ImportError as error:
        raise UserError("--wandb: the package is missing; pip install wandb") from error
    try:
        run = wandb.init(
            project=config.wandb_project,
            name=config.wandb_name or config.save_name or default_name,
            config=to_dict(config),
            id=run_id,
            resume="allow",
            settings=wandb.Settings(init_timeout=30, silent=True),
        )
    except (wandb.errors.Error, OSError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"--wandb: cannot start a run ({reason}); set WANDB_MODE=offline to log without a "
            "network, or log in with: wandb login"
        ) from error
    if step is not None:
        run.define_metric(step)
        run.define_metric("*", step_metric=step)
    try:
        yield WandbRun(run)
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()
