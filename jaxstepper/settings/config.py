"""The table of all options, with defaults and help.

The command line, the help text, and the readers of TOML files and checkpoints follow from `Config`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

from jaxstepper.settings.option import Command, Option, option
from jaxstepper.settings.values import (
    ADDRESS,
    COUNT,
    DURATION,
    EVEN,
    FRACTION,
    NOT_NEGATIVE,
    OPTIMIZERS,
    POSITION,
    POSITIVE,
    RECORDING,
    RUN_NAME,
    STEP_COUNT,
    STEP_SIZE,
    TIMES,
    UNITS,
    WIDTHS,
    YES_NO,
    integer,
    number,
    one_of,
    path,
    read_value,
    text,
)

CONTROLLERS = (
    "fixed",
    "acceleration",
    "distance-over-acceleration",
    "free-fall",
    "power-law",
    "huayno",
    "hairer-soderlind",
    "logarithmic-hamiltonian",
    "learned",
    "aarseth",
)
# Those of individual steps, each body's own; `learned` is for both kinds.
CRITERIA = ("aarseth", "learned")
SCHEMES = ("leapfrog", "chin", "bm4", "hermite", "logarithmic")

ORBITAL, ECCENTRIC, ENCOUNTERS = "orbital", "eccentric", "encounters"
# Derivatives are of one body's motion, for its individual steps; the others are for shared steps.
DERIVATIVES, PAIRS, SHARES = "derivatives", "pairs", "shares"
# Inputs without a scale of their own; the torch system does not have them.
NATIVE_FEATURES = (ORBITAL, ECCENTRIC, ENCOUNTERS, DERIVATIVES, PAIRS, SHARES)
# The inputs of a few weights in the place of a network, and the schemes for these, first the usual.
OF_WEIGHTS = {
    DERIVATIVES: ("hermite",),
    PAIRS: ("hermite",),
    SHARES: ("chin", "bm4", "hermite", "leapfrog"),
}


@dataclass(frozen=True)
class Suits:
    """What suits an objective.

    Attributes:
        values: those of options, unless others are set.
        native: whether it trains networks with `NATIVE_FEATURES`.
        no_dropout: why their dropout must be 0; "" if it need not.
        schemes: whether it trains through any scheme, or the leapfrog alone.
        weights: whether it trains a few weights of the inputs `OF_WEIGHTS`, or a network.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    native: bool = False
    no_dropout: str = ""
    schemes: bool = False
    weights: bool = False


OBJECTIVES = {
    "gate": Suits(),
    # One iteration with the default widths takes half a minute; these learn fast.
    "window": Suits(
        {"lr": 2.5e-3, "weight_decay": 0.0, "hidden_dims": (32, 32)},
        True,
        "where all steps of a window are of one network",
        True,
    ),
    "evolution": Suits({}, True, "where nothing is dropped", weights=True),
}

_optimisation = partial(option, group="optimisation", takes="train")
_loop = partial(option, group="two-phase training", takes="train")
_window = partial(
    option, group="window training (objective window)", takes="train", objective="window"
)
_evolution = partial(
    option, group="evolution (objective evolution)", takes="train", objective="evolution"
)
_network = partial(option, group="network (simulate takes it from the checkpoint)")
_features = partial(option, group="features and history")
_scales = partial(option, group="normalisation")
_initial = partial(option, group="initial conditions")
_orbits = partial(option, group="many orbits")
_force = partial(option, group="force")
_simulation = partial(option, group="simulation (train accepts these, and stores them)")
_scheme = partial(option, group="scheme")
_rule = partial(option, group="step-size rule", takes="simulate")
_device = partial(option, group="device")
_processes = partial(option, group="several processes")
_files = partial(option, group="files")
_logging = partial(option, group="logging")
_movie = partial(option, group="movie")
_unused = partial(option, group="accepted for compatibility, without effect", effect=False)
_unused_key = partial(_unused, takes="train", flag=False)


@dataclass(frozen=True)
class Config:
    """All options of a run; `parse` and `from_dict` check the values."""

    optimizer: str = _optimisation("adam", OPTIMIZERS, "optimiser", also="-o")
    lr: float = _optimisation(1e-4, POSITIVE, "learning rate; 0.0025 with objective window")
    weight_decay: float = _optimisation(
        1e-2, NOT_NEGATIVE, "L2 weight decay; 0 with objective window"
    )
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

    objective: str = _window(
        "gate",
        one_of(*OBJECTIVES),
        "gate is two-phase training, on single steps; window trains through all steps of a window, "
        "on their number and largest energy error; evolution trains on whole rollouts: a "
        "criterion for individual steps, or a rule for few bodies",
        objective="",
    )
    window_steps: int = _window(1024, COUNT, "most steps of a window")
    window_length: float = _window(
        12.0, POSITIVE, "longest window, in periods of bound pairs or else in units of time"
    )
    window_start: float = _window(
        0.0,
        NOT_NEGATIVE,
        "windows start up to so long after the initial conditions, in the same units; for bodies "
        "that do not come back to where they began",
    )
    window_batch: int = _window(32, COUNT, "windows in an iteration")
    window_iterations: int = _window(20, COUNT, "iterations in an epoch")
    unit_spread: float = _window(
        1.0,
        number(low=1),
        "each window is in units of mass and length of its own, up to this many times larger or "
        "smaller, for networks that are not free of scale",
    )
    softening_spread: float = _window(
        1.0,
        number(low=1),
        "the softening is, in proportion to each system, up to this many times smaller, "
        "log-uniformly",
    )
    imitation_epochs: int = _window(
        0, integer(0), "epochs at the start in which the network learns the free-fall rule's dt"
    )
    lr_decay: str = _window(
        "cosine", one_of("none", "cosine"), "how the learning rate falls until the last epoch"
    )
    tolerance_min: float = _window(1e-3, POSITIVE, "smallest energy error to aim for")
    tolerance_max: float = _window(
        3e-2, POSITIVE, "largest energy error to aim for; a tolerance is drawn for each window"
    )

    population: int = _evolution(16, EVEN, "candidates that are tried in an epoch")
    population_spread: float = _evolution(
        0.15, POSITIVE, "standard deviation of the weights of the first of them"
    )
    rollouts: int = _evolution(16, COUNT, "systems that each is tried on")
    rollout_time: float = _evolution(1.0, POSITIVE, "how long")
    eta_min: float = _evolution(0.03, POSITIVE, "smallest eta that each is tried with")
    eta_max: float = _evolution(0.3, POSITIVE, "largest eta")

    hidden_dims: tuple[int, ...] = _network(
        (200, 1000, 1000, 200), WIDTHS, "hidden widths; 32 32 with objective window"
    )
    activation: str = _network("tanh", one_of("relu", "tanh", "sigmoid", "silu"), "activation")
    dropout: float = _network(0.2, FRACTION, "dropout probability while training")
    fourier_scale: float = _network(-1.0, number(), "scale of the Fourier features; none when <= 0")
    fourier_dim: int = _network(256, EVEN, "number of Fourier features")

    feature_type: str = _features(
        "delta_mag",
        one_of("delta_mag", "basic", "rich", *NATIVE_FEATURES),
        "input of the network; delta_mag without history is basic; orbital is free of scale, has a "
        "tolerance among its inputs and dt in units of a dynamical time, and needs objective "
        "window; eccentric is the same for orbits up to a parabola; encounters, for many bodies, "
        "also sees what is around each; with objective window "
        "pairs have orbital and others encounters unless this, history_len or normalize_inputs is "
        "set; derivatives, of one body's motion for individual steps, and pairs and shares, for "
        "a step that few bodies share, belong to objective evolution; there is no export of these",
    )
    fastest: int = _features(
        0,
        integer(0),
        "how many bodies, those that fall fastest, a network of inputs encounters is asked about, "
        "which takes less time; 0 for all",
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
        None, path("PATH"), "table of bodies: .npy, or text of columns m x.. v.."
    )
    num_particles: int = _initial(2, integer(2), "particles of random initial conditions")
    dim: int = _initial(2, COUNT, "dimensions of space")
    mass: float = _initial(1.0, POSITIVE, "mass of every random particle")
    pos_scale: float = _initial(0.1, POSITIVE, "standard deviation of random positions")
    vel_scale: float = _initial(1.0, NOT_NEGATIVE, "standard deviation of random velocities")
    eccentricity: float = _initial(
        0.9,
        FRACTION,
        "start from a Kepler pair of this eccentricity, at pericentre; -e alone means 0.9. Without "
        "-e and -a the bodies are random",
        also="-e",
    )
    semi_major: float = _initial(
        1.0, POSITIVE, "start from a Kepler pair of this semi-major axis", also="-a"
    )
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
        "kepler",
        one_of("kepler", "apocentre", "random", "virial", "plummer"),
        "how the initial conditions of many orbits are drawn: Kepler pairs at pericentre or at "
        "apocentre, random bodies, or in 3D (total mass 1, energy -1/4) random bodies in virial "
        "equilibrium or Plummer spheres",
    )
    mass_range: float = _orbits(
        1.0,
        number(low=1),
        "the masses of draw virial differ by up to this factor, log-uniformly; 1 for equal ones",
    )
    binaries: int = _orbits(
        0,
        integer(0),
        "up to so many pairs of bodies of each sphere of draw plummer are binaries, of semi-major "
        "axes a_min to a_max, log-uniformly, and eccentricities e_min to e_max, uniformly in e^2",
    )
    retrain_batch: int = _orbits(
        256, COUNT, "most systems that are tried, and trained on, at once in phase 1", takes="train"
    )
    fresh_every: int = _orbits(
        0,
        integer(0),
        "restart the systems from new draws every N epochs; 0 for never",
        takes="train",
    )
    e_min: float = _orbits(0.6, FRACTION, "smallest eccentricity drawn")
    e_max: float = _orbits(0.95, FRACTION, "largest eccentricity drawn")
    a_min: float = _orbits(0.8, POSITIVE, "smallest semi-major axis drawn")
    a_max: float = _orbits(1.2, POSITIVE, "largest semi-major axis drawn")

    units: tuple[str, ...] | None = _force(
        None,
        UNITS,
        "units of the bodies and of all that is given and told: a length, a time or a speed, and a "
        "mass, such as au yr Msun or pc km/s Msun; or si. G follows (needs astropy)",
    )
    G: float = _force(1.0, POSITIVE, "gravitational constant, in the units of the bodies")
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
    dt: float = _simulation(
        -1.0, STEP_SIZE, "constant dt of analytic, -1 for 0.01; with --individual the longest step"
    )
    steps: int = _simulation(-1, STEP_COUNT, "steps to simulate; -1 for 1000")
    duration: float | None = _simulation(
        None,
        DURATION,
        "time to simulate, instead of steps; train warns and uses the epoch count",
    )
    start_time: float = _simulation(0.0, number(), "time of the initial conditions")
    backwards: bool = _simulation(False, YES_NO, "run time backwards, by the duration or the steps")
    Nperiod: int = _simulation(
        10, integer(), "orbital periods to simulate when the system is a bound pair; off when <= 0"
    )
    stop_at_period: bool = _simulation(
        False, YES_NO, "end a bound pair after one orbital period; in training, it retires then"
    )
    use_train_ic: bool = _simulation(
        False, YES_NO, "start from the checkpoint's initial conditions"
    )

    scheme: str = _scheme(
        "leapfrog",
        one_of(*SCHEMES),
        "how a step is taken: leapfrog, second order; chin and bm4, fourth order and symmetric, "
        "with 3 and 6 evaluations of forces a step; hermite, fourth order, of forces and jerks; "
        "logarithmic, for the controller of that name. train takes it with objective window, and "
        "simulate takes it from the checkpoint",
    )
    individual: bool = _rule(
        False,
        YES_NO,
        "each body takes steps of its own, in powers of two: needs --scheme hermite and "
        "--controller aarseth or learned",
    )
    controller: str | None = _rule(
        None,
        one_of(*CONTROLLERS),
        "the step-size rule, in the place of --integrator-mode; learned is the network's, with its "
        "history window if it has one; aarseth is for --individual",
    )
    eta: float | None = _rule(
        None,
        POSITIVE,
        "the rule's factor; for fixed its dt, for learned a factor on dt; else the rule's own",
    )
    tolerance: float = _rule(
        1e-3,
        POSITIVE,
        "energy error that a network with inputs orbital, eccentric or encounters aims for",
    )
    power: float = _rule(1.5, number(), "the power of power-law, eta r^power")
    symmetrize: bool = _rule(
        False, YES_NO, "make the rule time-reversible, so that the energy error does not drift"
    )
    distill: bool = _rule(
        False,
        YES_NO,
        "put polynomials in the place of a network of inputs orbital, eccentric or encounters, "
        "for steps that take less time",
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
    shard: bool = _device(
        False,
        YES_NO,
        "share the pairs of one large system among all devices and processes",
        takes="simulate",
    )

    distributed: bool = _processes(
        False,
        YES_NO,
        "be one of the processes that SLURM, Open MPI or a TPU pod has started for this run",
    )
    coordinator: str | None = _processes(
        None, ADDRESS, "be one of several processes; process 0 is at this address"
    )
    num_processes: int | None = _processes(None, COUNT, "with --coordinator: how many there are")
    process_id: int | None = _processes(
        None, integer(0), "with --coordinator: which of them this is, from 0"
    )
    join_timeout: float = _processes(
        45.0, POSITIVE, "seconds to wait until all processes of the run have come"
    )

    save_name: str | None = _files(None, RUN_NAME, "name of the run and of its folder", also="-s")
    checkpoint_dir: str = _files("checkpoints", path("DIR"), "folder that holds the runs")
    checkpoint_interval: int = _files(10, COUNT, "epochs between checkpoints", takes="train")
    checkpoint_minutes: float = _files(
        10.0, POSITIVE, "longest time between checkpoints, in minutes", takes="train"
    )
    keep: int | None = _files(
        None,
        COUNT,
        "keep this many of the newest checkpoints, and the best by pass rate; else all",
        takes="train",
    )
    resume: bool = _files(
        False,
        YES_NO,
        "go on with the run of this --save-name where its newest checkpoint is; more --epochs "
        "extend it",
        takes="train",
    )
    overwrite: bool = _files(
        False, YES_NO, "delete a run of the same name; else it is refused", takes="train"
    )
    model_path: str | None = _files(
        None, path("PATH"), "trained weights to start from: a run, RUN/EPOCH or FILE.pt"
    )
    output: str | None = _files(
        None,
        RECORDING,
        "write the trajectory to this .npz or .h5 file (HDF5 needs h5py), as it comes",
        takes="simulate",
    )
    output_every: float | None = _files(
        None,
        POSITIVE,
        "time between the states that are written; else every step",
        takes="simulate",
    )
    output_times: tuple[float, ...] | None = _files(
        None, TIMES, "times of the states that are written", takes="simulate"
    )
    restart: str | None = _files(
        None,
        RECORDING,
        "go on with the rollout that this file of --output records, as if it had not ended; "
        "--duration and --steps count from its first start",
        takes="simulate",
    )

    quiet: bool = _logging(False, YES_NO, "print results and errors only")
    debug: bool = _logging(
        False, YES_NO, "lines on the attempts of training, one by one, and on every epoch"
    )
    debug_every: int = _logging(
        1, COUNT, "attempts of phase 1 in an epoch between the lines of --debug"
    )
    debug_replay_every: int = _logging(
        10, COUNT, "iterations of phase 2 between the lines of --debug"
    )
    wandb: bool = _logging(False, YES_NO, "log to Weights & Biases")
    wandb_project: str = _logging("jaxstepper", text("NAME"), "its project")
    wandb_name: str | None = _logging(None, text("NAME"), "its run name; else save_name")
    wandb_artifacts: bool = _logging(
        False,
        YES_NO,
        "keep the newest checkpoint there, with its file for the torch simulator; or the "
        "trajectory of simulate",
    )

    movie: bool = _movie(
        False,
        YES_NO,
        "make a movie of the first system: simulate of its rollout, train of its accepted states, "
        "one an epoch (gate training only)",
    )
    movie_dir: str | None = _movie(
        None,
        path("DIR"),
        "folder of the movie; else the run's (train), or that of --output or the current one "
        "(simulate)",
    )
    movie_format: str = _movie(
        "mp4", one_of("mp4", "gif"), "an mp4 is far smaller, and needs imageio-ffmpeg"
    )
    movie_max_frames: int = _movie(1000, COUNT, "most frames; of more states, some evenly")
    movie_fps: int = _movie(30, COUNT, "frames per second")
    movie_dpi: int = _movie(120, COUNT, "dots per inch; 120 makes 1280 x 720")

    dt_bound: float = _unused(1e-8, number(), "bound of dt", takes="train")
    rel_loss_bound: float = _unused(1e-5, number(), "bound of the relative loss", takes="train")
    L_lower: float = _unused(1e-4, number(), "lower bound of angular momentum", takes="train")
    L_upper: float = _unused(1e-2, number(), "upper bound of angular momentum", takes="train")
    eps: float = _unused(0.1, number(), "tolerance")
    adam_epochs: int = _unused_key(0, integer(0), "epochs of Adam before L-BFGS")
    adam_lr: float | None = _unused_key(None, POSITIVE, "their learning rate")
    lbfgs_lr: float = _unused_key(1.0, POSITIVE, "learning rate of L-BFGS")
    lbfgs_max_iter: int = _unused_key(500, COUNT, "iterations of L-BFGS")
    lbfgs_history_size: int = _unused_key(50, COUNT, "curvature pairs of L-BFGS")
    lbfgs_line_search: str = _unused_key("strong_wolfe", text("NAME"), "line search of L-BFGS")


DEFAULTS: dict[str, Any] = {each.name: each.default for each in fields(Config)}
OPTIONS: dict[str, Option] = {each.name: each.metadata["option"] for each in fields(Config)}


def flag_of(name: str) -> str:
    """The flag of an option: kebab-case, except for `--E_lower` and the like."""
    return f"--{name if name[:2] in ('E_', 'L_') else name.replace('_', '-')}"


def accepts(command: Command, name: str) -> bool:
    """Whether `command` takes the option `name`; `both` takes every one."""
    return "both" in (command, OPTIONS[name].takes) or command == OPTIONS[name].takes


def matters(config: Config, name: str) -> bool:
    """Whether the option `name` matters to the objective that is trained."""
    return OPTIONS[name].objective in ("", config.objective)


def read_option(name: str, raw: Any, source: str) -> Any:
    """The checked value of `name`, of flag text or a TOML or JSON value; raises as `read_value`."""
    return read_value(OPTIONS[name].allowed, name, raw, source)
