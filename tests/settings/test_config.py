"""The configuration by example: flags, defaults, precedence, and each kind of refusal once.

What holds for every option and every value is in `test_config_properties.py`.
"""

import re
import subprocess
import sys
import typing
from dataclasses import fields, replace
from pathlib import Path
from types import UnionType
from typing import Any

import pytest

from jaxstepper.errors import UserError
from jaxstepper.settings.checks import check_history, check_together, ineffective
from jaxstepper.settings.command_line import parse, parse_both
from jaxstepper.settings.config import DEFAULTS, OPTIONS, Config, flag_of
from jaxstepper.settings.option import Command
from jaxstepper.settings.request import Request
from jaxstepper.settings.stored import from_dict, summary, to_dict

# Name, flag as typed, another value, how it is read, default: the torch system's command line.
TRAIN_FLAGS: list[tuple[str, str, Any, Any]] = [
    ("optimizer", "--optimizer sgd", "sgd", "adam"),
    ("optimizer", "-o adamw", "adamw", "adam"),
    ("epochs", "--epochs 3", 3, 1000),
    ("epochs", "-n 3", 3, 1000),
    ("lr", "--lr 1e-3", 1e-3, 1e-4),
    ("weight_decay", "--weight-decay 0", 0.0, 1e-2),
    ("momentum", "--momentum 0.5 --optimizer sgd", 0.5, 0.9),
    ("n_steps", "--n-steps 2", 2, 10),
    ("dt_bound", "--dt-bound 1e-7", 1e-7, 1e-8),
    ("rel_loss_bound", "--rel-loss-bound 1e-4", 1e-4, 1e-5),
    ("energy_threshold", "--energy-threshold 1e-3", 1e-3, 2e-4),
    ("steps_per_epoch", "--steps-per-epoch 4", 4, 1),
    ("max_retrain_steps", "--max-retrain-steps 0", 0, 1000),
    ("replay_steps", "--replay-steps 7", 7, 1000),
    ("replay_batch_size", "--replay-batch-size 8", 8, 512),
    ("replay_batch_size", "--replay-batch 8", 8, 512),
    ("min_replay_size", "--min-replay-size 3", 3, 2),
    ("E_lower", "--E_lower 1e-5", 1e-5, 1e-6),
    ("E_upper", "--E_upper 1e-3", 1e-3, 1e-4),
    ("L_lower", "--L_lower 1e-5", 1e-5, 1e-4),
    ("L_upper", "--L_upper 1e-1", 1e-1, 1e-2),
    ("phase1", "--phase1 torch", "torch", "robust"),
    ("band", "--band both", "both", "upper"),
    ("multi_orbit", "--multi-orbit", True, False),
    ("retrain_batch", "--retrain-batch 64", 64, 256),
    ("fresh_every", "--fresh-every 5", 5, 0),
    ("overwrite", "--overwrite", True, False),
    ("checkpoint_interval", "--checkpoint-interval 1", 1, 10),
    ("checkpoint_minutes", "--checkpoint-minutes 2.5", 2.5, 10.0),
    ("keep", "--keep 3", 3, None),
    ("resume", "--resume", True, False),
    ("objective", "--objective window", "window", "gate"),
    ("window_steps", "--window-steps 64", 64, 1024),
    ("window_length", "--window-length 3", 3.0, 12.0),
    ("window_start", "--window-start 3", 3.0, 0.0),
    ("window_batch", "--window-batch 8", 8, 32),
    ("window_iterations", "--window-iterations 5", 5, 20),
    ("unit_spread", "--unit-spread 2", 2.0, 1.0),
    ("softening_spread", "--softening-spread 10", 10.0, 1.0),
    ("imitation_epochs", "--imitation-epochs 3", 3, 0),
    ("lr_decay", "--lr-decay none", "none", "cosine"),
    ("tolerance_min", "--tolerance-min 1e-4", 1e-4, 1e-3),
    ("tolerance_max", "--tolerance-max 1e-2", 1e-2, 3e-2),
    ("population", "--population 8", 8, 16),
    ("population_spread", "--population-spread 0.3", 0.3, 0.15),
    ("rollouts", "--rollouts 4", 4, 16),
    ("rollout_time", "--rollout-time 2", 2.0, 1.0),
    ("eta_min", "--eta-min 0.01", 0.01, 0.03),
    ("eta_max", "--eta-max 0.5", 0.5, 0.3),
]
TOGETHER = "--coordinator node1:1234 --num-processes 4 --process-id 3"
SHARED_FLAGS: list[tuple[str, str, Any, Any]] = [
    ("distributed", "--distributed", True, False),
    ("coordinator", TOGETHER, "node1:1234", None),
    ("num_processes", TOGETHER, 4, None),
    ("join_timeout", "--join-timeout 2.5", 2.5, 45.0),
    ("process_id", TOGETHER, 3, None),
    ("fastest", "--fastest 8", 8, 0),
    ("history_len", "--history-len 3", 3, 0),
    ("feature_type", "--feature-type rich", "rich", "delta_mag"),
    ("normalize_inputs", "--normalize-inputs", True, False),
    ("norm_mode", "--norm-mode manual --norm-L0 1 --norm-V0 1", "manual", "auto"),
    ("norm_L0", "--norm-L0 2", 2.0, None),
    ("norm_V0", "--norm-V0 2", 2.0, None),
    ("norm_A0", "--norm-A0 2", 2.0, None),
    ("norm_T0", "--norm-T0 2", 2.0, None),
    ("integrator_mode", "--integrator-mode ml", "ml", "analytic"),
    ("dt", "--dt 0.5", 0.5, -1.0),
    ("dt", "--dt -1", -1.0, -1.0),
    ("steps", "--steps 5", 5, -1),
    ("duration", "--duration 2", 2.0, None),
    ("start_time", "--start-time -3", -3.0, 0.0),
    ("backwards", "--backwards", True, False),
    ("units", "--units au yr msun", ("au", "yr", "msun"), None),
    ("G", "--G 39.5", 39.5, 1.0),
    ("Nperiod", "--Nperiod 0", 0, 10),
    ("eps", "--eps 0.2", 0.2, 0.1),
    ("num_particles", "--num-particles 3", 3, 2),
    ("num_particles", "--num_particles 3", 3, 2),
    ("dim", "--dim 3", 3, 2),
    ("mass", "--mass 2", 2.0, 1.0),
    ("pos_scale", "--pos-scale 1", 1.0, 0.1),
    ("vel_scale", "--vel-scale 0", 0.0, 1.0),
    ("eccentricity", "--eccentricity 0", 0.0, 0.9),
    ("eccentricity", "-e 0.5", 0.5, 0.9),
    ("semi_major", "--semi-major 2", 2.0, 1.0),
    ("semi_major", "-a 2", 2.0, 1.0),
    ("external_field_mass", "--external-field-mass 5 --external-field-position 1 2", 5.0, None),
    (
        "external_field_position",
        "--external-field-position -10 0 -1e-3 --dim 3 --external-field-mass 5",
        (-10.0, 0.0, -1e-3),
        None,
    ),
    ("num_orbits", "--num-orbits 2", 2, 8),
    ("stop_at_period", "--stop-at-period", True, False),
    ("e_min", "--e-min 0.1", 0.1, 0.6),
    ("e_max", "--e-max 0.99", 0.99, 0.95),
    ("mass_range", "--mass-range 10", 10.0, 1.0),
    ("binaries", "--binaries 2 --draw plummer --a-min 0.01 --a-max 0.02", 2, 0),
    ("a_min", "--a-min 0.1", 0.1, 0.8),
    ("a_max", "--a-max 3", 3.0, 1.2),
    ("device", "--device cuda", "cuda", "auto"),
    ("dtype", "--dtype float32", "float32", "float64"),
    ("tf32", "--tf32", True, False),
    ("tf32", "--no-tf32", False, False),
    ("compile", "--compile", True, False),
    ("detect_anomaly", "--detect-anomaly", True, False),
    ("hidden_dims", "--hidden-dims 16 8", (16, 8), (200, 1000, 1000, 200)),
    ("activation", "--activation relu", "relu", "tanh"),
    ("dropout", "--dropout 0", 0.0, 0.2),
    ("fourier_scale", "--fourier-scale 1", 1.0, -1.0),
    ("fourier_dim", "--fourier-dim 8", 8, 256),
    ("save_name", "--save-name runs/a", "runs/a", None),
    ("save_name", "-s -1", "-1", None),
    ("seed", "--seed 4294967295", 2**32 - 1, None),
    ("debug", "--debug", True, False),
    ("debug_every", "--debug-every 2", 2, 1),
    ("debug_replay_every", "--debug_replay_every 2", 2, 10),
    ("movie", "--movie", True, False),
    ("movie_dir", "--movie-dir m", "m", None),
    ("movie_format", "--movie-format gif", "gif", "mp4"),
    ("movie_max_frames", "--movie-max-frames 2", 2, 1000),
    ("movie_fps", "--movie-fps 2", 2, 30),
    ("movie_dpi", "--movie-dpi 2", 2, 120),
    ("model_path", "--model-path m.pt", "m.pt", None),
    ("wandb", "--wandb", True, False),
    ("wandb_project", "--wandb-project p", "p", "jaxstepper"),
    ("wandb_name", "--wandb-name w", "w", None),
    ("wandb_artifacts", "--wandb-artifacts", True, False),
    ("ic_path", "--ic-path ic.npy", "ic.npy", None),
    ("use_train_ic", "--use-train-ic", True, False),
    ("multi_orbit_sim", "--multi-orbit-sim", True, False),
    ("softening", "--softening 0.01", 0.01, 0.0),
    ("draw", "--draw random", "random", "kepler"),
    ("checkpoint_dir", "--checkpoint-dir c", "c", "checkpoints"),
    ("compilation_cache", "--no-compilation-cache", False, True),
    ("quiet", "--quiet", True, False),
]
SIMULATE_FLAGS: list[tuple[str, str, Any, Any]] = [
    ("output", "--output a.npz", "a.npz", None),
    ("output", "--output a.h5", "a.h5", None),
    ("output_every", "--output a.h5 --output-every 0.5", 0.5, None),
    ("output_times", "--output a.h5 --output-times -1 0 2.5", (-1.0, 0.0, 2.5), None),
    ("restart", "--restart a.npz", "a.npz", None),
    ("controller", "--controller free-fall", "free-fall", None),
    ("eta", "--eta 0.1", 0.1, None),
    ("tolerance", "--tolerance 1e-5", 1e-5, 1e-3),
    ("power", "--power 1 --controller power-law", 1.0, 1.5),
    ("symmetrize", "--symmetrize", True, False),
    ("distill", "--distill", True, False),
    ("shard", "--shard", True, False),
]
# Training by the gate, the default of `both`, takes the leapfrog alone.
SCHEME_FLAGS = [
    ("scheme", "--scheme chin", "chin", "leapfrog"),
    ("individual", "--individual --scheme hermite --controller aarseth", True, False),
]
CONFIG_ONLY = {
    "adam_epochs": 0,
    "adam_lr": None,
    "lbfgs_lr": 1.0,
    "lbfgs_max_iter": 500,
    "lbfgs_history_size": 50,
    "lbfgs_line_search": "strong_wolfe",
}


def refused(command: Command, argv: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        parse(command, argv)
    message = str(caught.value)
    assert "\n" not in message
    return message


def toml(folder: Path, content: str) -> list[str]:
    path = folder / "my.toml"
    path.write_text(content)
    return ["--config", str(path)]


def test_every_flag_is_taken_and_its_default_is_that_of_the_torch_system() -> None:
    rows = {"train": TRAIN_FLAGS + SHARED_FLAGS, "simulate": SHARED_FLAGS + SIMULATE_FLAGS}
    rows["simulate"] += SCHEME_FLAGS
    rows["both"] = TRAIN_FLAGS + SHARED_FLAGS + SIMULATE_FLAGS
    commands: tuple[Command, ...] = ("train", "simulate", "both")
    for command in commands:
        plain = parse(command, [])
        assert plain.sources == {}
        for name, typed, value, default in rows[command]:
            request = parse(command, typed.split())
            assert getattr(request.config, name) == value, typed
            assert type(getattr(request.config, name)) is type(value), typed
            assert request.source(name).startswith("--") and request.sets(name)
            assert getattr(plain.config, name) == default, name


def test_the_list_above_is_complete() -> None:
    listed = {row[0] for row in TRAIN_FLAGS + SHARED_FLAGS + SIMULATE_FLAGS + SCHEME_FLAGS}
    assert listed | CONFIG_ONLY.keys() == OPTIONS.keys()
    assert {name: DEFAULTS[name] for name in CONFIG_ONLY} == CONFIG_ONLY


def test_simulate_refuses_flags_of_train() -> None:
    for _, typed, _, _ in TRAIN_FLAGS:
        flag = typed.split()[0]
        message = refused("simulate", typed.split())
        assert message == f"{flag}: simulate does not take this flag, train does"


def test_defaults_are_allowed_and_typed_as_annotated() -> None:
    """A wrong default or annotation in the table shows here."""
    assert from_dict(to_dict(Config())) == (Config(), {})
    for each in fields(Config):
        annotation = typing.cast(Any, each.type)
        if isinstance(annotation, UnionType):
            assert each.default is None
            annotation = typing.get_args(annotation)[0]
        allowed = OPTIONS[each.name].allowed
        expected = tuple[allowed.kind, ...] if allowed.many else allowed.kind  # type: ignore[name-defined]
        assert annotation == expected, each.name


def test_precedence(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        "seed = 1\ndtype = 'float32'\nlr = 1\nepochs = 5\noutput = 'a.npz'\nhidden_dims = [8, 4]\n"
        "[train]\nseed = 2\nlr = 0.5\nexternal_field_position = [1, -2]\nexternal_field_mass = 1\n"
        "[simulate]\nseed = 3\n",
    )
    path = file[1]
    request = parse("train", [*file, "--lr", "0.25"])
    config, given = request.config, request.sources
    assert (config.seed, config.dtype, config.lr, config.epochs) == (2, "float32", 0.25, 5)
    assert config.hidden_dims == (8, 4)
    assert config.external_field_position == (1.0, -2.0)
    assert config.output is None  # the top level serves both commands
    assert given["seed"] == f"{path} [train]"
    assert given["epochs"] == path
    assert given["lr"] == "--lr"

    request = parse("simulate", [*file, "--dtype", "float64"])
    config, given = request.config, request.sources
    assert (config.seed, config.dtype, config.output) == (3, "float64", "a.npz")
    assert "lr" not in given


def test_parse_both_gives_each_command_its_own(tmp_path: Path) -> None:
    file = toml(tmp_path, "[train]\nseed = 2\noptimizer = 'sgd'\n[simulate]\nseed = 3\n")
    argv = [*file, "--momentum", "0.5", "--output", "a.npz", "--dim", "3"]
    train, simulate = parse_both(argv)
    config = train.config
    assert (config.seed, config.momentum, config.dim, config.output) == (2, 0.5, 3, None)
    config = simulate.config
    assert (config.seed, config.dim, config.output) == (3, 3, "a.npz")
    assert train.sources.keys() == {"seed", "optimizer", "momentum", "dim"}
    assert simulate.sources.keys() == {"seed", "output", "dim"}
    assert parse("both", argv).config.output == "a.npz"


NUMBER = "must be a number"
INTEGER = "must be an integer"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--epochs -3", f"--epochs -3: {INTEGER} >= 1"),
        ("--dropout -1e-3", f"--dropout -1e-3: {NUMBER} in [0, 1)"),
        ("--hidden-dims", "--hidden-dims: expected at least one argument; must be one or more int"),
        ("--E_lower 1e-3", "--E_lower 0.001: must be <= E_upper, 0.0001"),
        ("--E_upper 1e-7", "--E_lower 1e-06: must be <= E_upper, 1e-07"),
        ("--lr", "--lr: expected one argument; must be a number > 0"),
        ("--lr --epochs 3", "--lr: expected one argument; must be a number > 0"),
        ("--config", "--config: expected one argument"),
        ("--momentum 0.5", "--momentum 0.5: must be left out with optimizer adam; only sgd has"),
        ("-o lbfgs", "--optimizer lbfgs: must be one of adam, adamw, sgd; the line search and cur"),
        ("--norm-mode manual", "--norm-mode manual: needs norm_L0 too (--norm-L0)"),
        ("--integrator-mode history", "--integrator-mode history: needs history_len (--history-l"),
        ("-s ../x", '--save-name ../x: must be a relative name, not empty, without ".."'),
        ("--save-name=", "--save-name '': must be a relative name, not empty, without"),
        (
            "--external-field-mass 5",
            "--external-field-mass 5.0: must come together with external_field_position (--exte",
        ),
        (
            "--external-field-position 1 2",
            "--external-field-position 1.0 2.0: must come together with external_field_mass (--e",
        ),
        (
            "--external-field-position 1 2 3 --external-field-mass 5",
            "--external-field-position 1.0 2.0 3.0: must be 2 numbers (dim is 2), or 3 of which "
            "the last is 0",
        ),
        (
            "--external-field-position 1 2 --external-field-mass 5 --dim 3",
            "--external-field-position 1.0 2.0: must be 3 numbers (dim is 3)",
        ),
        (
            "--num-processes 2 --process-id 0",
            "--num-processes 2: must come together with coordinator (--coordinator)",
        ),
        (
            "--coordinator a:1 --num-processes 2 --process-id 2",
            "--process-id 2: must be below num_processes, 2",
        ),
        ("--tf32=yes", "--tf32: ignored explicit argument 'yes'; takes no value"),
        ("--epoch 3", "--epoch: unknown flag; did you mean --epochs?"),
        ("--num_particle 3", "--num_particle: unknown flag; did you mean --num-particles?"),
        ("-epochs 3", "-epochs: unknown flag; did you mean --epochs?"),
        ("--zzz=3", "--zzz: unknown flag; --help lists them all"),
        ("--no-compile", "--no-compile: unknown flag; did you mean --compile?"),
        ("--adam_epochs 3", "--adam_epochs: not a flag; adam_epochs may be set in a TOML file"),
        ("--output a.npz", "--output: train does not take this flag, simulate does"),
        ("stray", "stray: stands after no flag that takes it; see --help"),
        ("-3", "-3: stands after no flag that takes it; see --help"),
    ],
)
def test_refused_flags(argv: str, message: str) -> None:
    assert refused("train", argv.split()).startswith(message)


def test_refused_values_stay_on_one_short_line() -> None:
    assert refused("train", ["--lr", "1\n2"]) == "--lr 1\\n2: must be a number > 0"
    assert refused("train", ["-s", "a\nb"]).startswith("--save-name a\\nb: must be")
    assert len(refused("train", ["--lr", "9" * 1000])) < 120
    assert refused("simulate", ["--output", "a.txt"]).endswith(
        "must be a path that ends in .npz or .h5"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[train]\ndropout = 1.5", " [train] dropout = 1.5: must be a number in [0, 1)"),
        ("epochs = 1.0", " epochs = 1.0: must be an integer >= 1"),
        (f"lr = 1{'0' * 400}", f" lr = 1{'0' * 56}...: must be a number > 0"),
        ("seed = 1979-05-27", ' seed = "1979-05-27": must be an integer in [0, 4294967296)'),
        ("E_lower = 1", " E_lower = 1.0: must be <= E_upper, 0.0001"),
        ("dropuot = 1", " dropuot = 1: unknown key; did you mean dropout?"),
        ("zzzz = 1", " zzzz = 1: unknown key; allowed are the long flags of --help"),
        ("[train]\nnum-particles = 3", " [train] num-particles = 3: unknown key; did you mean num"),
        ("[simulate]\nlr = 1", " [simulate] lr = 1: simulate does not take it, train does"),
        ("[train]\noutput='a.npz'", ' [train] output = "a.npz": train does not take it, simulate'),
        ("[trian]\nlr = 1", " [trian]: unknown table; allowed are [train], [simulate] and [sweep]"),
        ("train = 3", " train = 3: must be a table, [train]"),
        ("lr =", ": not a TOML file: Invalid value (at "),
    ],
)
def test_refused_toml(tmp_path: Path, content: str, message: str) -> None:
    argv = toml(tmp_path, content)
    assert refused("train", argv).removeprefix("--config ").startswith(argv[1] + message)


def test_unreadable_files(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.toml")
    expected = f"--config {missing}: cannot read this file (No such file or directory)"
    assert refused("train", ["--config", missing]).startswith(expected)
    assert refused("train", ["--config", str(tmp_path)]).startswith(f"--config {tmp_path}: cannot")
    binary = tmp_path / "b.toml"
    binary.write_bytes(b"\xff\xfe")
    assert "position 0" in refused("train", ["--config", str(binary)])


def test_history_of_simulate_may_come_from_the_checkpoint() -> None:
    request = parse("simulate", ["--integrator-mode", "history"])
    with pytest.raises(UserError, match="^--integrator-mode history: needs history_len"):
        check_history(request)
    check_history(request.replace(history_len=2))


def test_position_of_the_field_may_have_a_zero_z() -> None:
    argv = ["--external-field-position", "-10", "0", "0", "--external-field-mass", "5"]
    request = parse("train", argv)
    assert request.config.external_field_position == (-10.0, 0.0)
    assert check_together(request) == request


def test_ineffective_names() -> None:
    request = parse("train", ["--dt-bound", "1", "--lr", "1", "--L_lower", "1", "--eps", "1"])
    assert ineffective(request) == ["dt_bound", "L_lower", "eps"]
    assert CONFIG_ONLY.keys() < set(ineffective(Request(Config(), dict.fromkeys(OPTIONS, ""))))


def test_config_only_keys_in_toml(tmp_path: Path) -> None:
    file = toml(tmp_path, "[train]\nadam_epochs = 3\nadam_lr = 1\n")
    assert parse("train", file).config.adam_lr == 1.0


def test_round_trip() -> None:
    config = Config(hidden_dims=(8,), dim=3, seed=3, external_field_mass=1.0)
    request = check_together(Request(replace(config, external_field_position=(1, 2, 3))))
    config = request.config
    plain = to_dict(config)
    assert plain["hidden_dims"] == [8]
    assert plain["external_field_position"] == [1, 2, 3]
    back, unknown = from_dict({**plain, "particle_count": 3})
    assert back == config
    assert unknown == {"particle_count": 3}
    assert type(back.hidden_dims) is tuple


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dropout": 2}, "checkpoint config dropout = 2: must be a number in [0, 1)"),
        ({"lr": None}, "checkpoint config lr = null: must be a number > 0"),
        ({"E_upper": 1e-9}, "checkpoint config E_lower = 1e-06: must be <= E_upper, 1e-09"),
    ],
)
def test_refused_checkpoint_config(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        from_dict(values)
    assert str(caught.value) == message


def test_summary() -> None:
    config = parse("train", ["--n-steps", "2", "--lr", "0.01", "--device", "cpu"]).config
    assert summary(config) == (
        "epochs=1000 n_steps=2 lr=0.01 wd=0.01 E_bounds=(1e-06,0.0001) L_bounds=(0.0001,0.01) "
        "history_len=0 feature_type=delta_mag device=cpu dtype=float64"
    )


@pytest.mark.parametrize("command", ["train", "simulate", "both"])
def test_full_help_shows_every_flag_and_default(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(command, ["--help-all"])
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--num_particles" not in shown
    assert "(default: 200 1000 1000 200)" in shown
    rows = {"train": TRAIN_FLAGS, "simulate": SIMULATE_FLAGS}.get(command, []) + SHARED_FLAGS
    for _, typed, _, _ in rows:
        assert typed.split()[0].replace("_", "-") in shown.replace("_", "-")


@pytest.mark.parametrize("command", ["train", "simulate", "both"])
def test_help_shows_what_most_people_want(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(command, ["--help", "--zzz"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    options = re.findall(r"^  (--[\w-]+)", shown, re.MULTILINE)
    assert 18 <= len(options) <= 28
    unused = [name for name, each in OPTIONS.items() if not each.effect]
    assert not [name for name in unused if flag_of(name) in options]
    examples = re.findall(r"^  jaxstepper (\w+) (.*)$", shown, re.MULTILINE)
    assert len(examples) == 3
    for name, flags in examples:
        assert name == command
        parse(command, flags.split())


@pytest.mark.processes
def test_importing_the_configuration_is_light() -> None:
    heavy = "{'jax', 'numpy', 'flax', 'torch'} & sys.modules.keys()"
    code = f"import sys, jaxstepper.settings.command_line; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--feature-type orbital", "--feature-type orbital: needs objective window"),
        (
            "--feature-type orbital --objective window --history-len 2",
            "--feature-type orbital: goes without history_len",
        ),
        (
            "--feature-type orbital --objective window --normalize-inputs",
            "--feature-type orbital: goes without history_len and normalize_inputs",
        ),
        ("--objective window --dropout 0.1", "--dropout 0.1: must be 0 with objective window"),
        ("--tolerance-min 0.1", "--tolerance-min 0.1: must be <= tolerance_max, 0.03"),
    ],
)
def test_what_the_objective_cannot_train_is_refused(typed: str, message: str) -> None:
    assert refused("train", typed.split()).startswith(message)


def test_the_window_objective_has_no_dropout() -> None:
    config = parse("train", ["--objective", "window"]).config
    assert config.dropout == 0.0


def test_what_suits_the_window_objective_is_for_it_alone_and_what_is_set_wins() -> None:
    suited = ("lr", "weight_decay", "hidden_dims")

    def values(typed: str) -> list[object]:
        config = parse("train", typed.split()).config
        return [getattr(config, name) for name in suited]

    assert values("--objective window") == [2.5e-3, 0.0, (32, 32)]
    assert values("--objective window --lr 1e-4 --weight-decay 1e-2") == [1e-4, 1e-2, (32, 32)]
    assert values("") == values("--objective gate") == [DEFAULTS[name] for name in suited]
