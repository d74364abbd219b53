"""What a run leaves in Weights & Biases at its end: figures, its checkpoint and its export."""

import tempfile
from pathlib import Path

from jaxstepper.errors import UserError
from jaxstepper.reporting.note import note
from jaxstepper.reporting.wandb_run import WandbRun
from jaxstepper.runs import checkpoints
from jaxstepper.runs.exchange import to_torch
from jaxstepper.torch_files import file as torch_bridge


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
        exported = _export(checkpoint, Path(folder))
        wandb_run.keep(checkpoint.parent.name, "model", checkpoint, *exported)


def _export(checkpoint: Path, folder: Path) -> list[Path]:
    """The .pt file of a checkpoint, in a list; an empty one, and a line why, if there is none."""
    try:
        saved = checkpoints.load(checkpoint.parent, checkpoint.name)
        path = folder / torch_bridge.file_name(saved.epoch)
        torch_bridge.write(path, to_torch(saved))
    except UserError as error:
        note(f"W&B: the checkpoint is kept without a .pt file: {error}")
        return []
    return [path]
