"""The table [sweep]: what it may hold, and what trials draw from it."""

import tomllib

import optuna
import pytest

from jaxstepper.errors import UserError
from jaxstepper.settings.command_line import parse
from jaxstepper.settings.config import OPTIONS
from jaxstepper.settings.sweep_space import can_be_swept, read_choices
from jaxstepper.settings.toml_file import read_sweep

REFUSED = [
    ("lrr = [1e-3]", "unknown key; did you mean lr?"),
    ("seed = [1, 2]", "cannot be swept; allowed are keys of training"),
    ("save_name = ['a', 'b']", "cannot be swept"),
    ("epochs = [1, 2]", "cannot be swept: trials of another length or measure"),
    ("energy_threshold = {low = 1e-5, high = 1e-3}", "cannot be swept: trials of another"),
    ("lr = 1e-3", "must be a list of values, or {low = .., high = ..}"),
    ("lr = []", "must be a list of values"),
    ("lr = ['fast']", "must be a number > 0"),
    ("lr = [1e-3, 1e-3]", "holds 0.001 twice"),
    ("lr = {low = 1e-3}", "must be {low = .., high = ..}"),
    ("lr = {low = 1e-3, high = 1e-2, base = 2}", "must be {low = .., high = ..}"),
    ("lr = {low = 1e-2, high = 1e-3}", "low must be below high"),
    ("lr = {low = 0, high = 1e-3}", "lr = 0: must be a number > 0"),
    ("lr = {low = 1e-3, high = nan}", "must be a number > 0"),
    ("lr = {low = 1e-3, high = 1e-2, log = 'yes'}", "log must be true or false"),
    ("lr = {low = 1e-3, high = 1e-2, step = 1}", "step is an integer >= 1, for integers"),
    ("dropout = {low = 0.0, high = 0.5, log = true}", "low must be > 0 with log = true"),
    ("dropout = {low = 0.0, high = 1.0}", "must be a number in [0, 1)"),
    ("history_len = {low = 0.5, high = 4}", "history_len = 0.5: must be an integer >= 0"),
    ("fourier_dim = {low = 2, high = 64}", "fourier_dim = 3: must be an even integer"),
    ("activation = {low = 1, high = 2}", "is not a number, so it needs a list"),
    ("hidden_dims = {low = 8, high = 16}", "is not a number, so it needs a list"),
    ("hidden_dims = [8, 16]", "must be one or more integers >= 1"),
    ("optimizer = ['adam', 'lbfgs']", "the line search and curvature pairs of lbfgs"),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_what_cannot_be_swept_is_refused_by_every_command(text, words, tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(f"[sweep]\n{text}\n")
    for read in (lambda: read_sweep(str(path)), lambda: parse("train", ["--config", str(path)])):
        with pytest.raises(UserError) as refused:
            read()
        assert words in str(refused.value)
        assert str(refused.value).startswith(f"{path} [sweep] ")


@pytest.mark.parametrize(
    ("text", "words"),
    [("lr = 1e-3", "has no table [sweep]"), ("[sweep]", "has no table"), ("sweep = 3", "a table")],
)
def test_a_file_without_the_table_is_refused(text, words, tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(UserError) as refused:
        read_sweep(str(path))
    assert words in str(refused.value)


def test_trials_draw_what_the_table_says():
    text = """
    lr = {low = 1e-4, high = 1e-2, log = true}
    history_len = {low = 1, high = 6, step = 3}
    window_batch = {low = 2, high = 64, log = true}
    hidden_dims = [[8, 8], [16]]
    band = ["upper", "both"]
    normalize_inputs = [true, false]
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    choices = read_choices(tomllib.loads(text), "my.toml")
    drawn = []
    for _ in range(60):
        trial = study.ask()
        drawn.append({choice.name: choice.suggest(trial) for choice in choices})
        for choice in choices:
            label = study.trials[-1].params[choice.name]
            assert choice.of_label(label) == drawn[-1][choice.name]
    logs = sorted(each["lr"] for each in drawn)
    assert logs[0] >= 1e-4
    assert logs[-1] <= 1e-2
    assert 5e-4 < logs[30] < 2e-3  # the median of an even draw of the logarithm is 1e-3
    assert {each["history_len"] for each in drawn} == {1, 4}
    assert {type(each["window_batch"]) for each in drawn} == {int}
    assert {each["hidden_dims"] for each in drawn} == {(8, 8), (16,)}
    assert {each["band"] for each in drawn} == {"upper", "both"}
    assert {each["normalize_inputs"] for each in drawn} == {True, False}


def test_only_keys_with_a_flag_can_be_swept():
    assert all(
        OPTIONS[name].flag and OPTIONS[name].effect for name in OPTIONS if can_be_swept(name)
    )
    assert not can_be_swept("checkpoint_dir")
