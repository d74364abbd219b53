"""`export` and `import`: from our checkpoints to files of the torch simulator, and back."""

from pathlib import Path

from jaxstepper.errors import UserError
from jaxstepper.reporting.note import result
from jaxstepper.runs import folders
from jaxstepper.runs.exchange import export, save_as_run
from jaxstepper.runs.lock import locked
from jaxstepper.runs.places import check_file_place, check_folder_place, check_run_place
from jaxstepper.settings.command_parser import CommandParser, add_checkpoint_dir
from jaxstepper.settings.values import PATH
from jaxstepper.torch_files import file as torch_bridge


def run_export(arguments: list[str]) -> int:
    """`export RUN [--epoch E | --all] [--out PATH]`; returns the exit code."""
    parser = CommandParser(
        prog="jaxstepper export",
        description="Writes checkpoints of a run as model_epoch_XXXX.pt for the torch simulator.",
        examples=(
            "jaxstepper export demo",
            "jaxstepper export demo/4 --out exported",
            "jaxstepper export demo --all",
        ),
    )
    parser.take("run", allowed=PATH, metavar="RUN", help="a run's name or folder, or RUN/EPOCH")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--epoch", type=int, metavar="E", help="this epoch; else the newest")
    which.add_argument("--all", action="store_true", help="every epoch that was kept")
    parser.take("--out", allowed=PATH, help="a folder, or a .pt file; else the run's own")
    add_checkpoint_dir(parser)
    options = parser.parse_args(arguments)
    run, name = folders.locate(options.run, options.checkpoint_dir)
    saved = folders.epochs_of(run)
    if options.epoch is not None and options.epoch not in saved:
        raise UserError(f"--epoch {options.epoch}: {run} holds {', '.join(map(str, saved))}")
    chosen = name if options.epoch is None else options.epoch
    names = saved if options.all else [chosen]
    # Nothing is written beside a model that comes with the package.
    out = Path(options.out or ("." if folders.is_shipped(run) else run))
    if out.suffix == ".pt" and len(names) > 1:
        raise UserError(f"--out {out}: is one file, and {len(names)} epochs are to be written")
    if out.suffix == ".pt":
        check_file_place(out, f"--out {out}")
    else:
        check_folder_place(out, f"--out {out}")
    for each in names:
        result(export(run, each, out))
    return 0


def run_import(arguments: list[str]) -> int:
    """`import FILE.pt [--out RUN]`; returns the exit code."""
    parser = CommandParser(
        prog="jaxstepper import",
        description="Makes a run of a checkpoint file of the torch system. No code in it is run.",
        examples=(
            "jaxstepper import model_epoch_0004.pt",
            "jaxstepper import model_epoch_0004.pt --out checkpoints/imported",
            "jaxstepper simulate --model-path imported",
        ),
    )
    parser.take("file", allowed=PATH, metavar="FILE.pt")
    words = "the run's folder; else named like the file"
    parser.take("--out", allowed=PATH, metavar="RUN", help=words)
    add_checkpoint_dir(parser)
    options = parser.parse_args(arguments)
    file = torch_bridge.read(options.file)
    run = Path(options.out or Path(options.checkpoint_dir) / Path(options.file).stem)
    check_run_place(run)
    with locked(run):
        if file.epoch in folders.epochs_of(run):
            raise UserError(f"{run}: holds epoch {file.epoch} already; name another with --out")
        save_as_run(file, run, options.file)
    result(run / str(file.epoch))
    return 0
