"""Weights & Biases: a run's metrics, summary, artifacts and figures."""

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxstepper.errors import UserError, needing
from jaxstepper.reporting.note import note
from jaxstepper.training.objective import Objective
from jaxstepper.training.run import Result

# So many bytes are as good as none.
LITTLE = 10_000


class WandbRun:
    """A run of Weights & Biases; does nothing when it is off.

    What it fails to keep is told once, and ends nothing.
    """

    def __init__(self, run: Any = None) -> None:
        self._run = run
        self._has_failed = False

    @property
    def is_on(self) -> bool:
        """Whether there is a run."""
        return self._run is not None

    @property
    def id(self) -> str | None:
        """The id with which a resumed run continues in the same place."""
        return None if self._run is None else self._run.id

    @property
    def place(self) -> str:
        """Its page, or its folder if it is offline."""
        if self._run is None:
            return ""
        return str(Path(self._run.dir).parent) if self._run.offline else str(self._run.url)

    def log(self, values: Mapping[str, Any]) -> None:
        """Logs some values."""
        with self._tolerant():
            if self._run is not None:
                self._run.log(dict(values))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Adds values to the summary of the run."""
        with self._tolerant():
            if self._run is not None:
                self._run.summary.update(dict(values))

    def figure(self, name: str, picture: Path) -> None:
        """Logs a picture file."""
        if self._run is not None:
            import wandb

            with self._tolerant():
                self._run.log({name: wandb.Image(str(picture))})

    def keep(self, name: str, kind: str, *paths: Path) -> None:
        """Keeps files and folders as a new version of the artifact of this name."""
        if self._run is None:
            return
        import wandb

        with self._tolerant():
            artifact = wandb.Artifact(re.sub(r"[^a-zA-Z0-9_.-]", "-", name), type=kind)
            for path in paths:
                # File by file: adding a folder prints a line.
                for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                    if file.is_file():
                        artifact.add_file(str(file), name=str(file.relative_to(path.parent)))
            self._run.log_artifact(artifact)

    def finish(self, exit_code: int | None = None) -> None:
        """Ends the run."""
        with self._tolerant():
            self._run.finish(exit_code)
            # Its service writes the files, and keeps quiet about a disk that takes no more.
            if shutil.disk_usage(self._run.dir).free < LITTLE:
                raise OSError(f"the disk of {self._run.dir} is full")

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # wandb raises many kinds
            if not self._has_failed:
                reason = " ".join(str(error).split())[:120] or type(error).__name__
                note(f"W&B: something could not be kept there ({reason}); the run goes on")
            self._has_failed = True


def summary_values(objective: Objective, result: Result) -> dict[str, Any]:
    """The outcomes of training, for the summary of a run."""
    outcomes = objective.summary(result.state, result.metrics)
    return {
        "epochs": result.epochs,
        "total_time": result.total_time,
        "stopped": result.stopped or "completed",
        **{each.key: each.value for each in outcomes},
    }


@contextmanager
def start_wandb(
    project: str,
    name: str,
    config: Mapping[str, Any],
    run_id: str | None = None,
    step: str | None = None,
) -> Iterator[WandbRun]:
    """A new W&B run, or that of `run_id`; on leaving it is finished, even if training fails.

    All metrics are drawn against the metric `step`, or by default against W&B's count of logs.

    Raises:
        UserError: wandb is not installed, or cannot reach its server.
    """
    with needing("--wandb: the package is missing; pip install wandb"):
        import wandb  # 1.5 s, so only when it is asked for
    try:
        run = wandb.init(
            project=project,
            name=name,
            config=dict(config),
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
    kept = WandbRun(run)
    try:
        yield kept
    except BaseException:
        kept.finish(exit_code=1)
        raise
    kept.finish()
