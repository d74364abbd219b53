"""What `export` and `import` do: from one file to another."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from jaxstepper import checkpoints, setup, torch_bridge
from jaxstepper.command_parser import CommandParser, place
from jaxstepper.config import from_dict, summary, to_dict
from jaxstepper.errors import UserError
from jaxstepper.initial_conditions import random_table
from jaxstepper.models import TrainedModel, torch_config
from jaxstepper.places import check_file_place, check_folder_place, check_run_place
from jaxstepper.prepare import prepare_training
from jaxstepper.torch_checkpoint import FEATURE_TYPES, TorchCheckpoint
from jaxstepper.torch_state import adam_state_dict


def run_export(arguments: list[str]) -> int:
    """`export RUN [--epoch E | --all] [--out PATH]`; returns the exit code."""
    parser = CommandParser(
        prog="jaxstepper export",
        description="Writes checkpoints of a run as model_epoch_XXXX.pt for the torch simulator.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "run", type=place, metavar="RUN", help="a run's name or folder, or RUN/EPOCH"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--epoch", type=int, metavar="E", help="this epoch; else the newest")
    which.add_argument("--all", action="store_true", help="every epoch that was kept")
    parser.add_argument(
        "--out", type=place, metavar="PATH", help="a folder, or a .pt file; else the run's own"
    )
    parser.add_argument(
        "--checkpoint-dir", type=place, default="checkpoints", help="folder that holds the runs"
    )
    options = parser.parse_args(arguments)
    run, name = checkpoints.locate(options.run, options.checkpoint_dir)
    saved = checkpoints.epochs_of(run)
    if options.epoch is not None and options.epoch not in saved:
        raise UserError(f"--epoch {options.epoch}: {run} holds {', '.join(map(str, saved))}")
    chosen = name if options.epoch is None else options.epoch
    names = saved if options.all else [chosen]
    out = Path(options.out) if options.out else run
    if out.suffix == ".pt" and len(names) > 1:
        raise UserError(f"--out {out}: is one file, and {len(names)} epochs are to be written")
    if out.suffix == ".pt":
        check_file_place(out, f"--out {out}")
    else:
        check_folder_place(out, f"--out {out}")
    for each in names:
        checkpoint = checkpoints.load(run, each)
        file = to_torch(checkpoint)
        path = out if out.suffix == ".pt" else out / torch_bridge.file_name(checkpoint.epoch)
        _make_folder(path.parent)
        torch_bridge.write(path, file)
        print(path)
    return 0


def run_import(arguments: list[str]) -> int:
    """`import FILE.pt [--out RUN]`; returns the exit code."""
    parser = CommandParser(
        prog="jaxstepper import",
        description="Makes a run of a checkpoint file of the torch system. No code in it is run.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=place, metavar="FILE.pt")
    parser.add_argument(
        "--out", type=place, metavar="RUN", help="the run's folder; else named like the file"
    )
    parser.add_argument(
        "--checkpoint-dir", type=place, default="checkpoints", help="folder that holds the runs"
    )
    options = parser.parse_args(arguments)
    file = torch_bridge.read(options.file)
    run = Path(options.out or Path(options.checkpoint_dir) / Path(options.file).stem)
    check_run_place(run)
    if file.epoch in checkpoints.epochs_of(run):
        raise UserError(f"{run}: holds epoch {file.epoch} already; name another with --out")
    save_as_run(file, run, options.file)
    print(run / str(file.epoch))
    return 0


def to_torch(checkpoint: checkpoints.Checkpoint) -> TorchCheckpoint:
    """A checkpoint of ours to the torch simulator's contract."""
    config, _ = from_dict(checkpoint.config)
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
    """The moments of Adam, wherever they are in the optimiser's state; None for others."""
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
    """Keeps a torch checkpoint as a run: weights, optimiser, config and initial conditions."""
    raw = torch_config(file)
    config, unknown = from_dict(raw)
    config = setup.choose_seed(setup.configure_jax(config))
    tables = file.train_ic
    if tables is None:
        # The state of a run needs bodies; such a file says nothing about them but their number.
        tables = random_table(
            config.seed,
            config.num_particles,
            config.dim,
            config.mass,
            config.pos_scale,
            config.vel_scale,
        )
    tables = tables if tables.ndim == 3 else tables[None]
    config = setup.with_scales(setup.with_shape_of(config, tables), tables)
    model = TrainedModel(name, file.epoch, file.variables, raw, tables)
    _, state = prepare_training(config, tables, model)
    if file.adam is not None:
        optimizer_state = optax.tree_utils.tree_set(
            state.optimizer_state, count=file.adam.count, mu=file.adam.mu, nu=file.adam.nu
        )
        state = state.replace(optimizer_state=optimizer_state)
    state = state.replace(epoch=jax.numpy.asarray(file.epoch + 1, state.epoch.dtype))
    metrics = {} if file.loss is None else {"epoch": file.epoch, "mean_retrain_loss": file.loss}
    written = checkpoints.write(
        run / str(file.epoch),
        state,
        tables,
        config={**unknown, **to_dict(config)},
        metrics=metrics,
        about={},
    )
    written()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be made ({error.strerror})") from error
