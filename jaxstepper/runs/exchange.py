"""Converts checkpoints to and from those of the torch system."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxstepper.errors import UserError
from jaxstepper.physics.initial_conditions import random_table
from jaxstepper.runs import checkpoints
from jaxstepper.runs.bodies import with_shape_of
from jaxstepper.runs.jax_setup import choose_seed, configure_jax
from jaxstepper.runs.models import TrainedModel, torch_config
from jaxstepper.runs.plans import with_scales
from jaxstepper.runs.start import prepare
from jaxstepper.settings.stored import from_dict, summary, to_dict
from jaxstepper.torch_files import file as torch_bridge
from jaxstepper.torch_files.content import FEATURE_TYPES, TorchCheckpoint
from jaxstepper.torch_files.state_dict import adam_state_dict


def export(run: Path, name: str | int | None, out: Path) -> Path:
    """Writes a checkpoint of a run (the newest if `name` is None) for the torch simulator.

    `out` is a folder or a .pt file; returns the path of the file.

    Raises:
        UserError: the torch simulator does not have such inputs, or the file cannot be written.
    """
    checkpoint = checkpoints.load(run, name)
    path = out if out.suffix == ".pt" else out / torch_bridge.file_name(checkpoint.epoch)
    content = to_torch(checkpoint)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path.parent}: cannot be made ({error.strerror})") from error
    torch_bridge.write(path, content)
    return path


def to_torch(checkpoint: checkpoints.Checkpoint) -> TorchCheckpoint:
    """The torch simulator's form of a checkpoint; a UserError if it does not have such inputs."""
    config, _ = from_dict(checkpoint.config)
    if own := checkpoint.about.get("own_network"):
        raise UserError(
            f"{checkpoint.path}: cannot be exported: it was trained with {own}, which the torch "
            "simulator does not know"
        )
    if config.feature_type not in FEATURE_TYPES:
        raise UserError(
            f"{checkpoint.path}: cannot be exported: the torch simulator has no "
            f"{config.feature_type} inputs, no tolerance among them, and takes the network's "
            "output for dt itself, not for the logarithm of dt over a dynamical time; train with "
            f"--feature-type {' or '.join(FEATURE_TYPES[1:])}"
        )
    variables, tables = checkpoint.variables, checkpoint.initial_conditions
    adam = _adam(checkpoint)
    optimizer = None
    if adam is not None:
        optimizer = adam_state_dict(
            adam,
            variables,
            lr=config.lr,
            weight_decay=config.weight_decay,
            decoupled=config.optimizer == "adamw",
            dtype=np.dtype(config.dtype),
        )
    return TorchCheckpoint(
        epoch=checkpoint.epoch,
        variables=variables,
        optimizer=optimizer,
        has_dropout=config.dropout > 0,
        config=checkpoint.config,
        history_len=config.history_len,
        feature_type=config.feature_type,
        dtype=config.dtype,
        train_ic=tables[0] if len(tables) == 1 else tables,
        loss=checkpoint.metrics.get("mean_retrain_loss"),
        info=checkpoint.metrics or None,
        config_summary=summary(config),
    )


def _adam(checkpoint: checkpoints.Checkpoint) -> optax.ScaleByAdamState | None:
    """The moments of Adam, wherever they are in the optimiser's state; None if there are none."""
    found: list[dict[str, Any]] = []

    def look(tree: Any) -> None:
        if isinstance(tree, dict) and {"count", "mu", "nu"} <= tree.keys():
            found.append(tree)
        elif isinstance(tree, dict):
            for each in tree.values():
                look(each)

    look(checkpoint.arrays["state"].get("optimizer_state", {}))
    if not found:
        return None
    return optax.ScaleByAdamState(found[0]["count"], found[0]["mu"], found[0]["nu"])


def save_as_run(file: TorchCheckpoint, run: Path, name: str) -> None:
    """Writes a torch checkpoint as a run; `name` is that of its file, for messages."""
    raw = torch_config(file)
    config, unknown = from_dict(raw)
    config = choose_seed(configure_jax(config))
    tables = file.train_ic
    if tables is None:
        # The state of a run needs bodies, and such a file only says how many there were.
        size, scales = (config.num_particles, config.dim), (config.pos_scale, config.vel_scale)
        tables = random_table(config.seed, *size, config.mass, *scales)
    tables = tables if tables.ndim == 3 else tables[None]
    config = with_scales(with_shape_of(config, tables), tables)
    model = TrainedModel(name, file.epoch, file.variables, raw, tables)
    _, state = prepare(config, tables, model)
    if file.adam is not None:
        optimizer_state = optax.tree_utils.tree_set(
            state.optimizer_state, count=file.adam.count, mu=file.adam.mu, nu=file.adam.nu
        )
        state = state.replace(optimizer_state=optimizer_state)
    state = state.replace(epoch=jax.numpy.asarray(file.epoch + 1, state.epoch.dtype))
    metrics = {} if file.loss is None else {"epoch": file.epoch, "mean_retrain_loss": file.loss}
    path, flat = run / str(file.epoch), {**unknown, **to_dict(config)}
    checkpoints.write(path, state, tables, config=flat, metrics=metrics, about={})()
