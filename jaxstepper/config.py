"""The flat configuration: its names, defaults and checks, read from TOML and the command line.

`Config` is the table of everything that can be set; the parser, the help text, the TOML reader and
the checkpoint reader are all generated from it. Only the standard library is imported here, so that
`--help` answers at once.
"""

import argparse
import difflib
import json
import math
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import PurePath
from typing import Any, Literal, NoReturn

from jaxstepper.errors import UserError

Command = Literal["train", "simulate", "both"]
Settings = dict[str, tuple[Any, str]]  # name -> (value, source), source e.g. "--lr" or "my.toml"
TABLES: tuple[Command, ...] = ("train", "simulate")
CHECKPOINT = "checkpoint config"


# --- what a value may be ---------------------------------------------------------------------


@dataclass(frozen=True)
class Allowed:
    """The values one option may have: their kind, a test, and the words that say it to users."""

    kind: type
    words: str
    metavar: str = ""
    test: Callable[[Any], bool] = lambda value: True
    many: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)  # known names, and why they are not


def _bounded(
    kind: type, noun: str, low: float | None, above: float | None, below: float | None
) -> Allowed:
    def test(value: float) -> bool:
        return (
            math.isfinite(value)
            and (low is None or value >= low)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    if below is not None:
        words = f"{noun} in [{low}, {below})"
    elif above is not None:
        words = f"{noun} > {above}"
    elif low is not None:
        words = f"{noun} >= {low}"
    else:
        words = noun
    return Allowed(kind, words, "N" if kind is int else "X", test)


def integer(low: int | None = None, below: int | None = None) -> Allowed:
    """An integer with `low` <= value < `below`."""
    return _bounded(int, "an integer", low, None, below)


def number(
    low: float | None = None, above: float | None = None, below: float | None = None
) -> Allowed:
    """A finite number with `low` <= value, `above` < value, value < `below`."""
    noun = "a finite number" if low is None and above is None else "a number"
    return _bounded(float, noun, low, above, below)


def one_of(*names: str, refused: Mapping[str, str] | None = None) -> Allowed:
    """One of `names`; `refused` explains well-known names that are not among them."""
    words = f"one of {', '.join(names)}"
    braces = "{" + ",".join(names) + "}"
    return Allowed(str, words, braces, names.__contains__, refused=refused or {})


def text(metavar: str, words: str = "a text that is not empty", suffix: str = "") -> Allowed:
    """A printable text, not empty, that ends with `suffix`."""

    def test(value: str) -> bool:
        return bool(value.strip()) and value.isprintable() and value.endswith(suffix)

    return Allowed(str, words, metavar, test)


def _is_run_name(value: str) -> bool:
    # The name becomes a folder below the checkpoint directory and must not leave it.
    path = PurePath(value)
    inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    return inside and bool(value.strip()) and value.isprintable()


YES_NO = Allowed(bool, "true or false")
FRACTION = number(low=0, below=1)
POSITIVE = number(above=0)
NOT_NEGATIVE = number(low=0)
COUNT = integer(1)
RUN_NAME = Allowed(str, 'a relative name, not empty, without ".."', "NAME", _is_run_name)
WIDTHS = Allowed(
    int,
    "one or more integers >= 1",
    "N",
    lambda value: bool(value) and all(width >= 1 for width in value),
    many=True,
)
POSITION = Allowed(
    float,
    "finite numbers, one for each of the dim dimensions",
    "X",
    lambda value: bool(value) and all(map(math.isfinite, value)),
    many=True,
)
EVEN = Allowed(
    int, "an even integer >= 2", "N", lambda value: bool(value >= 2) and not bool(value % 2)
)
OPTIMIZERS = one_of(
    "adam",
    "adamw",
    "sgd",
    refused={
        "lbfgs": "the line search and curvature pairs of lbfgs need one fixed objective, while "
        "here every attempt trains on another state and dropout mask"
    },
)
STEP_SIZE = Allowed(
    float,
    "a number > 0, or -1 for the default",
    "X",
    lambda value: math.isfinite(value) and (value > 0 or value == -1),
)
STEP_COUNT = Allowed(
    int, "an integer >= 1, or -1 for the default", "N", lambda value: value >= 1 or value == -1
)


# --- the table of options --------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """All about one name but its default: what it may be, its help, and who takes it."""

    allowed: Allowed
    help: str
    group: str
    takes: Command
    also: str | None  # one more spelling of the flag
    flag: bool  # False: only in TOML
    effect: bool  # False: accepted for the sake of old command lines


def option(
    default: Any,
    allowed: Allowed,
    help: str,
    *,
    group: str,
    takes: Command = "both",
    also: str | None = None,
    flag: bool = True,
    effect: bool = True,
) -> Any:
    """Declares one field of `Config`."""
    declared = Option(allowed, help, group, takes, also, flag, effect)
    return field(default=default, metadata={"option": declared})


_optimisation = partial(option, group="optimisation", takes="train")
_loop = partial(option, group="two-phase training", takes="train")
_network = partial(option, group="network (simulate takes it from the checkpoint)")
_features = partial(option, group="features and history")
_scales = partial(option, group="normalisation")
_initial = partial(option, group="initial conditions")
_orbits = partial(option, group="many orbits")
_force = partial(option, group="force")
_simulation = partial(option, group="simulation (train accepts these, and stores them)")
_device = partial(option, group="device")
_files = partial(option, group="files")
_logging = partial(option, group="logging")
_movie = partial(option, group="movie")
_unused = partial(option, group="accepted for compatibility, without effect", effect=False)
_unused_key = partial(_unused, takes="train", flag=False)


@dataclass(frozen=True)
class Config:
    """Everything a run can be told, flat; `parse` and `from_dict` check the values."""

    optimizer: str = _optimisation("adam", OPTIMIZERS, "optimiser", also="-o")
    lr: float = _optimisation(1e-4, POSITIVE, "learning rate")
    weight_decay: float = _optimisation(1e-2, NOT_NEGATIVE, "L2 weight decay")
    momentum: float = _optimisation(0.9, FRACTION, "momentum of sgd; refused with the others")

    epochs: int = _loop(1000, COUNT, "epochs to train", also="-n")
    n_steps: int = _loop(10, COUNT, "leapfrog steps, all with one dt, per energy error")
    energy_threshold: float = _loop(2e-4, POSITIVE, "a relative energy error below is accepted")
    steps_per_epoch: int = _loop(1, COUNT, "accepted steps collected per epoch")
    max_retrain_steps: int = _loop(1000, integer(0), "most retrain iterations on a step; 0: no cap")
    replay_steps: int = _loop(1000, integer(0), "most iterations of phase 2 per epoch")
    replay_batch_size: int = _loop(
        512, COUNT, "samples per phase 2 iteration", also="--replay-batch"
    )
    min_replay_size: int = _loop(2, COUNT, "phase 2 is skipped with fewer samples")
    E_lower: float = _loop(1e-6, POSITIVE, "lower edge of the energy error band")
    E_upper: float = _loop(1e-4, POSITIVE, "upper edge of the energy error band")
    band: str = _loop(
        "upper",
        one_of("upper", "both"),
        "errors that train: those above the band, as in the torch system; or also those below, so "
        "that dt is not wasted, at the price of more iterations of phase 2",
    )
    phase1: str = _loop(
        "robust",
        one_of("robust", "torch"),
        "robust starts from a dt whose energy error lies in the band, and lets errors above it "
        "always ask for less; torch does as the torch system, --band upper included",
    )

    hidden_dims: tuple[int, ...] = _network((200, 1000, 1000, 200), WIDTHS, "hidden widths")
    activation: str = _network("tanh", one_of("relu", "tanh", "sigmoid", "silu"), "activation")
    dropout: float = _network(0.2, FRACTION, "dropout probability while training")
    fourier_scale: float = _network(-1.0, number(), "scale of the Fourier features; none when <= 0")
    fourier_dim: int = _network(256, EVEN, "number of Fourier features")

    feature_type: str = _features(
        "delta_mag",
        one_of("delta_mag", "basic", "rich"),
        "input of the network; delta_mag without history is basic",
    )
    history_len: int = _features(0, integer(0), "past states that the network sees")
    normalize_inputs: bool = _scales(False, YES_NO, "divide the features by the scales below")
    norm_mode: str = _scales(
        "auto",
        one_of("auto", "manual"),
        "scales from the initial state, or given (manual needs norm_L0 and norm_V0)",
    )
    norm_L0: float | None = _scales(None, POSITIVE, "length scale")
    norm_V0: float | None = _scales(None, POSITIVE, "speed scale")
    norm_A0: float | None = _scales(None, POSITIVE, "acceleration scale; else V0^2/L0")
    norm_T0: float | None = _scales(None, POSITIVE, "time scale; else L0/V0")

    ic_path: str | None = _initial(
        None, text("PATH"), "table of bodies: .npy, or text of columns m x.. v.."
    )
    num_particles: int = _initial(2, integer(2), "particles of random initial conditions")
    dim: int = _initial(2, COUNT, "dimensions of space")
    mass: float = _initial(1.0, POSITIVE, "mass of every random particle")
    pos_scale: float = _initial(0.1, POSITIVE, "standard deviation of random positions")
    vel_scale: float = _initial(1.0, NOT_NEGATIVE, "standard deviation of random velocities")
    eccentricity: float = _initial(
        0.9,
        FRACTION,
        "if given, and with two particles: start from a Kepler pair of this eccentricity",
        also="-e",
    )
    semi_major: float = _initial(1.0, POSITIVE, "likewise, of this semi-major axis", also="-a")
    seed: int | None = _initial(
        None, integer(0, below=2**32), "seed of all random draws; else a fresh one"
    )

    num_orbits: int = _orbits(
        8,
        COUNT,
        "orbits that --multi-orbit trains on and --multi-orbit-sim runs; train without "
        "--multi-orbit warns when this is above 1, and trains one orbit",
    )
    multi_orbit: bool = _orbits(False, YES_NO, "train on num_orbits systems at once", takes="train")
    multi_orbit_sim: bool = _orbits(False, YES_NO, "simulate num_orbits systems at once")
    draw: str = _orbits(
        "kepler", one_of("kepler", "random"), "how the initial conditions of many orbits are drawn"
    )
    retrain_batch: int = _orbits(
        256, COUNT, "most systems that are tried, and trained on, at once in phase 1", takes="train"
    )
    fresh_every: int = _orbits(
        0,
        integer(0),
        "restart the systems from new draws every so many epochs; 0 for never",
        takes="train",
    )
    e_min: float = _orbits(0.6, FRACTION, "smallest eccentricity drawn")
    e_max: float = _orbits(0.95, FRACTION, "largest eccentricity drawn")
    a_min: float = _orbits(0.8, POSITIVE, "smallest semi-major axis drawn")
    a_max: float = _orbits(1.2, POSITIVE, "largest semi-major axis drawn")

    softening: float = _force(0.0, NOT_NEGATIVE, "Plummer softening length of the force")
    external_field_mass: float | None = _force(
        None, NOT_NEGATIVE, "mass of a distant point whose tidal field is added"
    )
    external_field_position: tuple[float, ...] | None = _force(
        None, POSITION, "its position, X Y Z; with dim 2 the last may be left out or 0"
    )

    integrator_mode: str = _simulation(
        "analytic",
        one_of("analytic", "ml", "history"),
        "a constant dt, the network's, or the network's with the history window",
    )
    dt: float = _simulation(-1.0, STEP_SIZE, "constant dt of analytic; -1 for 0.01")
    steps: int = _simulation(-1, STEP_COUNT, "steps to simulate; -1 for 1000")
    duration: float | None = _simulation(
        None,
        NOT_NEGATIVE,
        "time to simulate, instead of steps; train warns and uses the epoch count",
    )
    Nperiod: int = _simulation(
        10, integer(), "orbital periods to simulate when the system is a bound pair; off when <= 0"
    )
    stop_at_period: bool = _simulation(
        False, YES_NO, "end a bound pair after one orbital period; in training, it retires then"
    )
    use_train_ic: bool = _simulation(
        False, YES_NO, "start from the checkpoint's initial conditions"
    )

    device: str = _device(
        "auto",
        one_of("auto", "cpu", "cuda", "gpu", "tpu"),
        "where to compute; cuda and gpu are the same",
    )
    dtype: str = _device("float64", one_of("float64", "float32"), "floating-point type of the run")
    tf32: bool = _device(
        False,
        YES_NO,
        "float32 matrix products may use TensorFloat-32 on NVIDIA GPUs (otherwise full float32)",
    )
    compile: bool = _device(
        False,
        YES_NO,
        "accepted for compatibility: XLA compiles everything in any case; off means nothing extra",
    )
    compilation_cache: bool = _device(
        True, YES_NO, "keep compiled programs on disk for this user's next runs"
    )
    detect_anomaly: bool = _device(
        False,
        YES_NO,
        "stop at the first NaN that a jitted function produces (jax_debug_nans); slow",
    )

    save_name: str | None = _files(None, RUN_NAME, "name of the run and of its folder", also="-s")
    checkpoint_dir: str = _files("checkpoints", text("DIR"), "folder that holds the runs")
    checkpoint_interval: int = _files(10, COUNT, "epochs between checkpoints", takes="train")
    overwrite: bool = _files(
        False, YES_NO, "delete a run of the same name; else it is moved to NAME.1", takes="train"
    )
    model_path: str | None = _files(
        None, text("PATH"), "trained weights to start from: a run, RUN/EPOCH or FILE.pt"
    )
    output: str | None = _files(
        None,
        text("PATH", "a path that ends in .npz", suffix=".npz"),
        "write the trajectory to this .npz file",
        takes="simulate",
    )

    quiet: bool = _logging(False, YES_NO, "print results and errors only")
    debug: bool = _logging(False, YES_NO, "a line on the steps of every debug_every-th epoch")
    debug_every: int = _logging(1, COUNT, "epochs between the lines of --debug")
    wandb: bool = _logging(False, YES_NO, "log to Weights & Biases")
    wandb_project: str = _logging("AITimeStepper", text("NAME"), "its project")
    wandb_name: str | None = _logging(None, text("NAME"), "its run name; else save_name")

    movie: bool = _movie(False, YES_NO, "not available yet; warns")
    movie_dir: str | None = _movie(None, text("DIR"), "folder of the movie")
    movie_max_frames: int = _movie(1000, COUNT, "most frames")
    movie_fps: int = _movie(30, COUNT, "frames per second")
    movie_dpi: int = _movie(120, COUNT, "dots per inch")

    dt_bound: float = _unused(1e-8, number(), "bound of dt", takes="train")
    rel_loss_bound: float = _unused(1e-5, number(), "bound of the relative loss", takes="train")
    L_lower: float = _unused(1e-4, number(), "lower bound of angular momentum", takes="train")
    L_upper: float = _unused(1e-2, number(), "upper bound of angular momentum", takes="train")
    eps: float = _unused(0.1, number(), "tolerance")
    debug_replay_every: int = _unused(10, COUNT, "iterations between lines on phase 2")
    adam_epochs: int = _unused_key(0, integer(0), "epochs of Adam before L-BFGS")
    adam_lr: float | None = _unused_key(None, POSITIVE, "their learning rate")
    lbfgs_lr: float = _unused_key(1.0, POSITIVE, "learning rate of L-BFGS")
    lbfgs_max_iter: int = _unused_key(500, COUNT, "iterations of L-BFGS")
    lbfgs_history_size: int = _unused_key(50, COUNT, "curvature pairs of L-BFGS")
    lbfgs_line_search: str = _unused_key("strong_wolfe", text("NAME"), "line search of L-BFGS")


DEFAULTS: dict[str, Any] = {each.name: each.default for each in fields(Config)}
OPTIONS: dict[str, Option] = {each.name: each.metadata["option"] for each in fields(Config)}


def flag_of(name: str) -> str:
    """The flag of a name: kebab-case, but `--E_lower` and its like."""
    return f"--{name if name[:2] in ('E_', 'L_') else name.replace('_', '-')}"


def accepts(command: Command, name: str) -> bool:
    """Whether `command` takes the option `name`; `both` takes every one."""
    return "both" in (command, OPTIONS[name].takes) or command == OPTIONS[name].takes


def ineffective(given: Collection[str]) -> list[str]:
    """The names among `given` that are accepted for compatibility and change nothing."""
    return [name for name in given if not OPTIONS[name].effect]


# --- refusals --------------------------------------------------------------------------------


def _error(message: str) -> UserError:
    # Whatever users typed may hold line breaks; the message stays one line.
    return UserError("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


def _shown(value: Any, source: str) -> str:
    """`value` as it would be typed at `source`, shortened."""
    if not source.startswith("-"):
        shown = json.dumps(value, default=str, ensure_ascii=False)
    elif isinstance(value, list | tuple):
        shown = " ".join(map(str, value))
    else:
        shown = str(value)
    shown = shown if shown.strip() else repr(shown)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _refusal(name: str, source: str, value: Any, rule: str) -> UserError:
    """The error of one value: `--epochs -3: ...` or `my.toml [train] epochs = -3: ...`."""
    shown = _shown(value, source)
    where = f"{source} {shown}" if source.startswith("-") else f"{source} {name} = {shown}"
    return _error(f"{where}: {rule}")


def _nearest(word: str, known: Collection[str], otherwise: str) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else otherwise


# --- one value -------------------------------------------------------------------------------


def _from_plain(kind: type, value: Any) -> Any:
    """A TOML or JSON value as `kind`. Raises ValueError when it is of another one."""
    if kind is float and type(value) is int:  # type(): True is an int to isinstance
        return float(value)
    if type(value) is not kind:
        raise ValueError
    return value


def _read(name: str, raw: Any, source: str) -> Any:
    """The checked value of `name`, from flag text or from a TOML or JSON value.

    Raises:
        UserError: `raw` is of the wrong kind or not allowed.
    """
    allowed = OPTIONS[name].allowed
    typed = source.startswith("-") and allowed.kind is not bool
    convert = allowed.kind if typed else partial(_from_plain, allowed.kind)
    try:
        if allowed.many and not isinstance(raw, list | tuple):
            raise ValueError
        value = tuple(map(convert, raw)) if allowed.many else convert(raw)
        if allowed.test(value):
            return value
    except (ValueError, OverflowError):
        value = None
    why = allowed.refused.get(value, "") if isinstance(value, str) else ""
    raise _refusal(name, source, raw, f"must be {allowed.words}" + (f"; {why}" if why else ""))


# --- the command line ------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def flags(self) -> list[str]:
        """Every spelling that is known."""
        return list(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        """Raises a UserError instead of printing the usage and leaving."""
        match = re.match(r"argument (\S+): (.*)", message, re.DOTALL)
        if match is None:
            raise _error(message)
        flag = next(each for each in match[1].split("/") if each.startswith("--"))
        allowed = next((o.allowed for n, o in OPTIONS.items() if flag_of(n) == flag), None)
        if allowed is None:
            raise _error(f"{flag}: {match[2]}")
        rule = "takes no value" if allowed.kind is bool else f"must be {allowed.words}"
        raise _error(f"{flag}: {match[2]}; {rule}")


def _default_words(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if default is None:
        return "none"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _parser(command: Command, prog: str | None) -> _Parser:
    # All values stay text here: `_read` converts and refuses them just as it does those of a file.
    # Defaults are suppressed to learn what was given.
    parser = _Parser(
        prog=prog or f"jaxstepper {command}",
        usage="%(prog)s [options]",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file: shared keys at the top level, tables [train] and [simulate]; flags win",
    )
    groups: dict[str, Any] = {}
    for name, declared in OPTIONS.items():
        if not (declared.flag and accepts(command, name)):
            continue
        if declared.group not in groups:
            groups[declared.group] = parser.add_argument_group(declared.group)
        allowed = declared.allowed
        settings: dict[str, Any] = {
            "dest": name,
            "help": f"{declared.help} (default: {_default_words(DEFAULTS[name])})",
        }
        if name == "compile":  # there is nothing that --no-compile would switch off
            settings["action"] = "store_true"
        elif allowed.kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings |= {"metavar": allowed.metavar, "nargs": "+" if allowed.many else None}
        also = [declared.also] if declared.also else []
        groups[declared.group].add_argument(flag_of(name), *also, **settings)
    return parser


def _is_negative_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return token.startswith("-")


def _plain_spelling(flag: str) -> str:
    return flag.replace("_", "-")


def _unknown_flag(command: Command, token: str, known: Collection[str]) -> UserError:
    flag = token.split("=")[0]
    if not flag.startswith("-") or _is_negative_number(flag):
        return _error(f"{_shown(token, '-')}: stands after no flag that takes it; see --help")
    for name, declared in OPTIONS.items():
        if _plain_spelling(flag) in (_plain_spelling(flag_of(name)), declared.also):
            if not declared.flag:
                return _error(f"{flag}: not a flag; {name} may be set in a TOML file only")
            return _error(f"{flag}: {command} does not take this flag, {declared.takes} does")
    return _error(
        f"{_shown(flag, '-')}: unknown flag; {_nearest(flag, known, '--help lists them all')}"
    )


def _read_flags(
    command: Command, argv: Sequence[str], prog: str | None
) -> tuple[Settings, str | None]:
    """What was given on the command line, and the TOML file."""
    parser = _parser(command, prog)
    known = parser.flags()
    spelled = {_plain_spelling(flag): flag for flag in known}
    tokens = []
    for token in argv:
        if _is_negative_number(token):
            # argparse takes "-1e-3" for a flag, but nothing that starts with a space.
            token = " " + token
        elif token.startswith("--"):
            flag, equals, value = token.partition("=")
            token = spelled.get(_plain_spelling(flag), flag) + equals + value
        elif token.startswith("-") and (meant := spelled.get(_plain_spelling("-" + token))):
            # argparse would read "-epochs" as "-e pochs".
            raise _error(f"{token}: unknown flag; did you mean {meant}?")
        tokens.append(token)
    parsed, rest = parser.parse_known_args(tokens)
    if rest:
        raise _unknown_flag(command, rest[0].strip(), known)
    raw = vars(parsed)
    path = raw.pop("config", None)
    settings: Settings = {}
    for name, value in raw.items():
        if isinstance(value, str) and _is_negative_number(value.strip()):
            value = value.strip()
        flag = flag_of(name)
        settings[name] = (_read(name, value, flag), flag)
    return settings, path


# --- the TOML file ---------------------------------------------------------------------------


def _read_toml(path: str | None) -> dict[Command, Settings]:
    """What the file sets for each command; the whole file is checked, whoever asks.

    Raises:
        UserError: the file cannot be read, or a table, a key or a value of it is not allowed.
    """
    found: dict[Command, Settings] = {"train": {}, "simulate": {}}
    if path is None:
        return found
    try:
        with open(path, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise _error(f"--config {path}: cannot read this file ({reason})") from None
    except ValueError as error:  # bad syntax, or not UTF-8; both say where
        raise _error(f"--config {path}: not a TOML file: {error}") from None

    tables = {name: content.pop(name) for name in TABLES if name in content}
    for name, value in content.items():
        if isinstance(value, dict):
            raise _error(f"{path} [{name}]: unknown table; allowed are [train] and [simulate]")
        checked = (_read_key(name, value, path), path)
        for command in TABLES:
            if accepts(command, name):
                found[command][name] = checked
    for command, table in tables.items():
        if not isinstance(table, dict):
            raise _refusal(command, path, table, f"must be a table, [{command}]")
        source = f"{path} [{command}]"
        for name, value in table.items():
            checked = (_read_key(name, value, source), source)
            if not accepts(command, name):
                takes = OPTIONS[name].takes
                raise _refusal(name, source, value, f"{command} does not take it, {takes} does")
            found[command][name] = checked
    return found


def _read_key(name: str, value: Any, source: str) -> Any:
    if name not in OPTIONS:
        otherwise = "allowed are the long flags of --help with _ for -"
        hint = _nearest(name, OPTIONS, otherwise)
        raise _refusal(name, source, value, f"unknown key; {hint}")
    return _read(name, value, source)


# --- values that must fit each other ---------------------------------------------------------


def _source(name: str, given: Mapping[str, str]) -> str:
    return given.get(name, flag_of(name))


def check_together(config: Config, given: Mapping[str, str]) -> Config:
    """Checks values against each other; returns the config, its field position cut to `dim`.

    Raises:
        UserError: two values contradict each other.
    """
    for low, high in (("E_lower", "E_upper"), ("e_min", "e_max"), ("a_min", "a_max")):
        smaller, larger = getattr(config, low), getattr(config, high)
        if smaller > larger:
            raise _refusal(low, _source(low, given), smaller, f"must be <= {high}, {larger}")
    if config.norm_mode == "manual":
        for scale in ("norm_L0", "norm_V0"):
            if getattr(config, scale) is None:
                source = _source("norm_mode", given)
                rule = f"needs {scale} too ({flag_of(scale)}), a number > 0"
                raise _refusal("norm_mode", source, "manual", rule)
    return replace(config, external_field_position=_field_position(config, given))


def _field_position(config: Config, given: Mapping[str, str]) -> tuple[float, ...] | None:
    mass, position = "external_field_mass", "external_field_position"
    for one, other in ((mass, position), (position, mass)):
        if getattr(config, one) is not None and getattr(config, other) is None:
            rule = f"must come together with {other} ({flag_of(other)})"
            raise _refusal(one, _source(one, given), getattr(config, one), rule)
    where, dim = config.external_field_position, config.dim
    if where is None or len(where) == dim:
        return where
    if dim == 2 and len(where) == 3 and where[2] == 0:  # X Y Z is how the torch system has it
        return where[:2]
    or_three = ", or 3 of which the last is 0" if dim == 2 else ""
    count = f"must be {dim} number{'s' * (dim > 1)} (dim is {dim}){or_three}"
    raise _refusal(position, _source(position, given), where, count)


def check_history(config: Config, given: Mapping[str, str]) -> None:
    """Checks that integrator_mode history has one; to simulate, call it once the checkpoint is in.

    Raises:
        UserError: integrator_mode is history and history_len is 0.
    """
    if config.integrator_mode == "history" and config.history_len == 0:
        source = _source("integrator_mode", given)
        rule = "needs history_len (--history-len), an integer >= 1"
        raise _refusal("integrator_mode", source, "history", rule)


def _check_band(config: Config, given: Mapping[str, str]) -> None:
    if config.phase1 == "torch" and config.band == "both" and "band" in given:
        rule = "is not for phase1 torch, which trains errors above the band alone"
        raise _refusal("band", given["band"], config.band, rule)


def _check_momentum(config: Config, given: Mapping[str, str]) -> None:
    if "momentum" in given and config.optimizer != "sgd":
        rule = f"must be left out with optimizer {config.optimizer}; only sgd has one"
        raise _refusal("momentum", given["momentum"], config.momentum, rule)


# --- the ways in and out ---------------------------------------------------------------------


def _view(command: Command, file: Settings, flags: Settings) -> tuple[Config, dict[str, str]]:
    settings = file | {name: flags[name] for name in flags if accepts(command, name)}
    given = {name: source for name, (_, source) in settings.items()}
    config = Config(**{name: value for name, (value, _) in settings.items()})
    _check_momentum(config, given)
    _check_band(config, given)
    if command != "simulate":  # there history_len may still come from the checkpoint
        check_history(config, given)
    return check_together(config, given), given


def parse(
    command: Command, argv: Sequence[str], prog: str | None = None
) -> tuple[Config, dict[str, str]]:
    """The config of `command`, and the source of every value given: flag, or file and table.

    `both` accepts every flag and reads the file as train does. `--help` prints and exits.
    To simulate, call `check_history` once the checkpoint's history_len is known.

    Raises:
        UserError: something given is unknown, of the wrong kind, or not allowed.
    """
    flags, path = _read_flags(command, argv, prog)
    return _view(command, _read_toml(path)["train" if command == "both" else command], flags)


def parse_both(
    argv: Sequence[str], prog: str | None = None
) -> tuple[tuple[Config, dict[str, str]], tuple[Config, dict[str, str]]]:
    """What `train` and `simulate` each see of one command line.

    Raises:
        UserError: as `parse`.
    """
    flags, path = _read_flags("both", argv, prog)
    file = _read_toml(path)
    return _view("train", file["train"], flags), _view("simulate", file["simulate"], flags)


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain JSON values."""
    values = {name: getattr(config, name) for name in OPTIONS}
    return {n: list(value) if isinstance(value, tuple) else value for n, value in values.items()}


def from_dict(mapping: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """The config of a checkpoint, and its unknown keys.

    Raises:
        UserError: a value is not allowed.
    """
    known: dict[str, Any] = {}
    for name in (name for name in mapping if name in OPTIONS):
        value = mapping[name]
        unset = value is None and DEFAULTS[name] is None
        known[name] = None if unset else _read(name, value, CHECKPOINT)
    unknown = {name: value for name, value in mapping.items() if name not in OPTIONS}
    return check_together(Config(**known), dict.fromkeys(OPTIONS, CHECKPOINT)), unknown


def summary(config: Config) -> str:
    """The `config_summary` line of a checkpoint."""
    c = config
    return (
        f"epochs={c.epochs} n_steps={c.n_steps} lr={c.lr} wd={c.weight_decay} "
        f"E_bounds=({c.E_lower},{c.E_upper}) L_bounds=({c.L_lower},{c.L_upper}) "
        f"history_len={c.history_len} feature_type={c.feature_type} "
        f"device={c.device} dtype={c.dtype}"
    )
