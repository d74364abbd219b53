"""A run in Weights & Biases: its figures, its checkpoint and its export."""

import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from jaxstepper.errors import UserError
from jaxstepper.machine.processes import is_main
from jaxstepper.reporting.note import note
from jaxstepper.reporting.wandb_run import WandbRun, start_wandb
from jaxstepper.runs.exchange import export
from jaxstepper.settings.config import Config
from jaxstepper.settings.stored import to_dict


def open_wandb(
    config: Config,
    default_name: str = "runner_train",
    run_id: str | None = None,
    step: str | None = None,
) -> AbstractContextManager[WandbRun]:
    """The W&B run that a config asks for, or one that does nothing.

    `default_name` is its name if neither --wandb-name nor --save-name is set; for the rest, and the
    errors, see `start_wandb`.
    """
    if config.wandb_artifacts and not (config.wandb and is_main()):
        note("--wandb-artifacts: nothing is kept without --wandb")
    if not (config.wandb and is_main()):
        return nullcontext(WandbRun())
    name = config.wandb_name or config.save_name or default_name
    return start_wandb(config.wandb_project, name, to_dict(config), run_id, step)


def log_figures(wandb_run: WandbRun, run: Path) -> None:
    """Logs the curves of a run, drawn from the metrics in its folder."""
    if not wandb_run.is_on:
        return
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "training.png"
        try:
            from jaxstepper.pictures.training_picture import plot_training

            plot_training(run, picture)
        except (ImportError, UserError) as error:
            note(f"W&B: no figures: {error}")
            return
        wandb_run.figure("figures/training", picture)


def keep_model(wandb_run: WandbRun, checkpoint: Path | None) -> None:
    """Keeps a checkpoint and its file for the torch simulator as one artifact."""
    if not wandb_run.is_on or checkpoint is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        exported: list[Path] = []
        try:
            exported = [export(checkpoint.parent, checkpoint.name, Path(folder))]
        except UserError as error:
            note(f"W&B: the checkpoint is kept without a .pt file: {error}")
        wandb_run.keep(checkpoint.parent.name, "model", checkpoint, *exported)
