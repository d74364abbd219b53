"""Properties of every option: what is allowed comes back the same, what is not is refused by name.

What is allowed is read here from the words that users are told, not from the checks themselves.
"""

import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from commandline import call
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from jaxstepper.errors import UserError
from jaxstepper.settings.command_line import parse
from jaxstepper.settings.config import (
    DEFAULTS,
    NATIVE_FEATURES,
    OBJECTIVES,
    OPTIONS,
    accepts,
    flag_of,
    read_option,
)
from jaxstepper.settings.stored import CHECKPOINT, from_dict, to_dict

# What users are told that each option must be.
RULES = {
    "a number > 0": "G output_every "
    "lr energy_threshold E_lower E_upper window_length tolerance_min tolerance_max "
    "norm_L0 norm_V0 norm_A0 norm_T0 mass pos_scale semi_major a_min a_max eta tolerance "
    "checkpoint_minutes join_timeout adam_lr lbfgs_lr population_spread rollout_time eta_min "
    "eta_max",
    "a number >= 0": "weight_decay vel_scale softening external_field_mass window_start",
    "a number >= 0; with --backwards, time runs backwards": "duration",
    "a number >= 1": "unit_spread softening_spread mass_range",
    "a number in [0, 1)": "momentum dropout eccentricity e_min e_max",
    "a number > 0, or -1 for the default": "dt",
    "a finite number": "start_time fourier_scale power dt_bound rel_loss_bound L_lower L_upper eps",
    "an integer": "Nperiod",
    "an integer >= 0": "max_retrain_steps replay_steps imitation_epochs history_len fresh_every "
    "fastest binaries process_id adam_epochs",
    "an integer >= 1": "epochs n_steps steps_per_epoch replay_batch_size min_replay_size "
    "window_steps window_batch window_iterations rollouts dim num_orbits retrain_batch "
    "num_processes checkpoint_interval keep "
    "debug_every debug_replay_every movie_max_frames movie_fps movie_dpi "
    "lbfgs_max_iter lbfgs_history_size",
    "an integer >= 2": "num_particles",
    "an integer >= 1, or -1 for the default": "steps",
    "an integer in [0, 4294967296)": "seed",
    "an even integer >= 2": "fourier_dim population",
    "one or more integers >= 1": "hidden_dims",
    "finite numbers, one for each of the dim dimensions": "external_field_position",
    "finite numbers, each larger than the one before": "output_times",
    "a length, a time or a speed, and a mass, such as au yr Msun; or si": "units",
    "true or false": "backwards "
    "normalize_inputs multi_orbit multi_orbit_sim stop_at_period use_train_ic "
    "symmetrize distill tf32 compile compilation_cache detect_anomaly distributed resume "
    "overwrite quiet debug wandb wandb_artifacts movie individual shard",
    "one of adam, adamw, sgd": "optimizer",
    "one of upper, both": "band",
    "one of robust, torch": "phase1",
    "one of gate, window, evolution": "objective",
    "one of none, cosine": "lr_decay",
    "one of relu, tanh, sigmoid, silu": "activation",
    "one of delta_mag, basic, rich, orbital, eccentric, encounters, "
    "derivatives, pairs, shares": "feature_type",
    "one of auto, manual": "norm_mode",
    "one of kepler, apocentre, random, virial, plummer": "draw",
    "one of analytic, ml, history": "integrator_mode",
    "one of fixed, acceleration, distance-over-acceleration, free-fall, power-law, huayno, "
    "hairer-soderlind, logarithmic-hamiltonian, learned, aarseth": "controller",
    "one of leapfrog, chin, bm4, hermite, logarithmic": "scheme",
    "one of auto, cpu, cuda, gpu, tpu": "device",
    "one of float64, float32": "dtype",
    "one of mp4, gif": "movie_format",
    "HOST:PORT": "coordinator",
    'a relative name, not empty, without ".."': "save_name",
    "a path, printable and not too long": "ic_path checkpoint_dir model_path movie_dir",
    "a path that ends in .npz or .h5": "output restart",
    "a printable text, not empty": "wandb_project wandb_name lbfgs_line_search",
}
RULE_OF = {name: rule for rule, names in RULES.items() for name in names.split()}
PAIRS = (("E_lower", "E_upper"), ("e_min", "e_max"), ("a_min", "a_max"))
PAIRS += (("tolerance_min", "tolerance_max"), ("eta_min", "eta_max"))
MOST = 2**31 - 1  # of an integer, where the rule names no bound of its own
FEW = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # to shrink so much would take minutes
    suppress_health_check=list(HealthCheck),
)


def bounds(rule: str) -> tuple[float, bool, float]:
    """The least number that a rule allows, whether it is itself allowed, and what is too much."""
    if found := re.search(r"in \[(\S+), (\S+)\)", rule):
        return float(found[1]), True, float(found[2])
    if found := re.search(r"(>=?) (\d+)", rule):
        return float(found[2]), found[1] == ">=", float("inf")
    return float("-inf"), False, float("inf")


@cache
def allowed_numbers(rule: str) -> st.SearchStrategy[Any]:
    least, closed, above = bounds(rule)
    low = None if least == float("-inf") else least
    if "integer" in rule:
        high = min(above - 1, MOST)
        integers = st.integers(None if low is None else int(low), int(high))
        integers = integers.map(lambda x: x - x % 2) if "even" in rule else integers
        return integers | st.just(-1) if "-1 for" in rule else integers
    top = None if above == float("inf") else above
    floats = st.floats(
        low,
        top,
        exclude_min=low is not None and not closed,
        exclude_max=top is not None,
        allow_nan=False,
        allow_infinity=False,
    )
    return floats | st.just(-1.0) if "-1 for" in rule else floats


texts = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@cache
def allowed_values(name: str) -> st.SearchStrategy[Any]:
    """Values that the rule of an option allows."""
    rule = RULE_OF[name]
    if rule.startswith("one of "):
        return st.sampled_from(rule.removeprefix("one of ").split(", "))
    if rule == "true or false":
        return st.booleans()
    if name == "units":
        return st.just(("au", "yr", "Msun"))
    if name == "output_times":
        apart = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4, unique=True)
        return apart.map(lambda times: tuple(sorted(times)))
    if name == "hidden_dims":
        return st.lists(st.integers(1, MOST), min_size=1, max_size=4).map(tuple)
    if rule == "HOST:PORT":
        return st.integers(0, 65535).map(lambda port: f"node1:{port}")
    if rule == "a path that ends in .npz or .h5":
        return texts.map(lambda text: f"{text}.npz")
    if rule.startswith("a relative name"):
        return texts.map(lambda text: "x" + text.replace(".", "/"))
    return texts if "path" in rule or "text" in rule else allowed_numbers(rule)


@st.composite
def consistent(draw: st.DrawFn, command: str) -> dict[str, Any]:
    """A value for every option that `command` takes, or for half of them; no two contradict."""
    mine = [name for name in OPTIONS if accepts(command, name)]  # type: ignore[arg-type]
    if draw(st.booleans()):
        mine = [name for name in mine if draw(st.booleans())]
    position = "external_field_position"
    values = {name: draw(allowed_values(name)) for name in mine if name != position}
    for low, high in PAIRS:
        two = sorted(values.pop(name) for name in (low, high) if name in values)
        values |= dict(zip((low, high), two, strict=True)) if len(two) == 2 else {}
    dim = values.get("dim", DEFAULTS["dim"])
    if "external_field_mass" in values and 1 <= dim <= 5:
        apart = st.floats(0.1, 1e6) | st.floats(-1e6, -0.1)
        values[position] = tuple(draw(st.lists(apart, min_size=dim, max_size=dim)))
    else:
        values.pop("external_field_mass", None)
    for needed in ("norm_L0", "norm_V0"):
        if needed not in values:
            values.pop("norm_mode", None)
    several = ("coordinator", "num_processes", "process_id")
    index, count = (values.get(name, -1) for name in ("process_id", "num_processes"))
    if not (set(several) <= values.keys() and index < count):
        for name in several:
            values.pop(name, None)
    if values.get("draw") != "plummer" or not {"a_min", "a_max"} <= values.keys():
        values.pop("binaries", None)
    if values.get("multi_orbit_sim"):
        values.pop("shard", None)
    if values.get("optimizer") != "sgd":
        values.pop("momentum", None)
    if values.get("phase1") == "torch":
        values.pop("band", None)
    if "controller" in values or values.get("integrator_mode") == "history":
        values.pop("integrator_mode", None)
    if values.get("controller") != "power-law":
        values.pop("power", None)
    if "eta" in values:
        values.pop("dt", None)
    if values.get("objective") == "evolution":  # which goes with features of its own alone
        del values["objective"]
    if values.get("objective") == "window":
        values.pop("dropout", None)
    if values.get("feature_type") in NATIVE_FEATURES and command == "train":
        del values["feature_type"]
    if values.get("individual"):
        values |= {"scheme": "hermite", "controller": "aarseth"}
        for name in ("integrator_mode", "power", "symmetrize", "distill"):
            values.pop(name, None)
    elif values.get("controller") == "aarseth":
        del values["controller"]
    elif values.get("controller") == "logarithmic-hamiltonian":
        values["scheme"] = "logarithmic"
    elif values.get("scheme") == "logarithmic":
        del values["scheme"]
    if command == "train" and values.get("objective") != "window":
        values.pop("scheme", None)
    if "output_every" in values or "output" not in values:
        values.pop("output_times", None)
    if "output" not in values:
        values.pop("output_every", None)
    if values.get("individual"):
        for name in ("output_every", "output_times", "restart"):
            values.pop(name, None)
    return values


def as_words(values: dict[str, Any]) -> list[str]:
    """Values as words of a command line."""
    words: list[str] = []
    for name, value in values.items():
        flag = flag_of(name)
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            words += [flag, *map(str, value)]
        else:
            words.append(f"{flag}={value}")
    return words


def as_toml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def test_every_option_says_what_it_must_be() -> None:
    assert RULE_OF.keys() == OPTIONS.keys()
    assert {name: OPTIONS[name].allowed.words for name in OPTIONS} == RULE_OF


def is_allowed(name: str, value: float) -> bool:
    try:
        read_option(name, value, CHECKPOINT)
    except UserError:
        return False
    return True


def test_every_edge_is_where_the_rule_puts_it() -> None:
    seen = 0
    for name, rule in RULE_OF.items():
        kind = OPTIONS[name].allowed.kind
        if kind not in (int, float) or OPTIONS[name].allowed.many:
            continue
        least, closed, above = bounds(rule)
        if least > float("-inf"):
            least = kind(least)
            below = least - 1 if kind is int else math.nextafter(least, -math.inf)
            beyond = least + 2 if kind is int else math.nextafter(least, math.inf)
            assert is_allowed(name, least) == closed, name
            assert is_allowed(name, beyond), name
            assert not is_allowed(name, below), name
            assert is_allowed(name, kind(-1)) == ("-1 for" in rule), name
            seen += 1
        if above < float("inf"):
            inside = int(above) - 1 if kind is int else math.nextafter(above, 0)
            assert is_allowed(name, inside) and not is_allowed(name, kind(above)), name
        elif kind is int:
            most = MOST - 1 if "even" in rule else MOST
            assert is_allowed(name, most) and not is_allowed(name, MOST + 1), name
    assert seen > 50


@pytest.mark.parametrize(("low", "high"), PAIRS)
def test_a_lower_edge_above_the_upper_is_refused(low: str, high: str) -> None:
    middle = (DEFAULTS[low] + DEFAULTS[high]) / 2
    for values in ({low: DEFAULTS[high] * 1.01}, {high: DEFAULTS[low] * 0.99}):
        with pytest.raises(UserError, match=rf"{flag_of(low)} .*: must be <= {high}, "):
            parse("train", as_words(values))
    assert parse("train", as_words({low: middle, high: middle}))


@pytest.mark.parametrize("command", ["train", "simulate"])
@FEW
@given(data=st.data())
def test_allowed_values_are_the_same_from_flags_a_file_and_a_checkpoint(
    command: Any, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    values = data.draw(consistent(command))
    lines = "\n".join(f"{name} = {as_toml(value)}" for name, value in values.items())
    file = tmp_path_factory.getbasetemp() / "config.toml"
    file.write_text(f"[{command}]\n{lines}\n", encoding="utf-8")
    request = parse(command, ["--config", str(file)])
    config, sources = request.config, request.sources
    for name, value in values.items():
        assert getattr(config, name) == value and type(getattr(config, name)) is type(value), name
    assert sources == dict.fromkeys(values, f"{file} [{command}]")
    untouched = OPTIONS.keys() - values.keys() - {"dropout"}
    untouched -= OBJECTIVES[config.objective].values.keys() if command == "train" else set()
    assert all(getattr(config, name) == DEFAULTS[name] for name in untouched)

    back, unknown = from_dict(json.loads(json.dumps(to_dict(config))))
    assert (back, unknown) == (config, {})

    typed = {name: value for name, value in values.items() if OPTIONS[name].flag}
    if typed.get("compile") is False:  # there is nothing that --no-compile would switch off
        del typed["compile"]
    request = parse(command, as_words(typed))
    config, sources = request.config, request.sources
    for name, value in typed.items():
        assert getattr(config, name) == value and type(getattr(config, name)) is type(value), name
    assert sources == {name: flag_of(name) for name in typed}


# No number, and no name of a choice.
NO_VALUES = (
    "",
    " ",
    "x y",
    "1.5.",
    "0x10",
    "1,5",
    "true",
    "None",
    "[]",
    "{}",
    "adamax",
    "²",
    "a\nb",
)


@cache
def wrong_texts(name: str) -> st.SearchStrategy[str]:
    """What may be typed after a flag and its rule forbids."""
    rule, kind = RULE_OF[name], OPTIONS[name].allowed.kind
    if kind is str:
        blank = st.sampled_from(["", " ", "\t", "a\nb", "a\0b"])
        if rule.startswith("a relative name"):
            return blank | st.sampled_from(["../x", "/x", ".", "x/../../y", "x" * 300])
        if rule.startswith("a path"):
            return blank | st.sampled_from(["x" * 300, "x/" * 3000])
        return blank if rule.startswith("a printable") else st.sampled_from(NO_VALUES)
    wrong = st.sampled_from(NO_VALUES) | st.sampled_from(["nan", "inf", "-inf", "1e400"])
    if kind is int:
        wrong |= st.sampled_from(["1.5", "1e3", str(10**30)])
    least, closed, above = bounds(rule)
    if above < float("inf"):
        wrong |= st.floats(above, 1e300).map(repr) if kind is float else st.just(str(int(above)))
    if least > float("-inf") and kind is float:
        below = st.floats(-1e300, least, exclude_max=closed).map(repr)
        wrong |= below.filter(lambda text: not ("-1 for" in rule and float(text) == -1))
    if least > float("-inf") and kind is int:
        wrong |= (
            st.integers(-(10**12), int(least) - 1)
            .map(str)
            .filter(lambda text: not ("-1 for" in rule and text == "-1"))
        )
    return wrong | st.just("3") if "even" in rule else wrong


@cache
def wrong_plain_values(name: str) -> st.SearchStrategy[Any]:
    """What TOML or JSON may hold, and is of another kind than the option."""
    values: dict[type, Any] = {
        bool: st.booleans(),
        int: st.integers(-3, 3),
        float: st.floats(0.1, 0.9),
        str: st.sampled_from(["", "1", "true", "0.5"]),
    }
    allowed = OPTIONS[name].allowed
    right = {allowed.kind} | ({int} if allowed.kind is float else set())
    single = st.one_of([values[kind] for kind in values if kind not in right])
    if not allowed.many:
        return single | st.lists(single, max_size=2) | st.just({"x": 1})
    return single | values[allowed.kind] | st.lists(single, min_size=1, max_size=2) | st.just([])


def refused(name: str, raw: Any, source: str) -> str:
    with pytest.raises(UserError) as caught:
        read_option(name, raw, source)
    return str(caught.value)


@FEW
@given(data=st.data())
def test_a_value_that_is_not_allowed_is_refused_in_a_line_that_names_it_and_its_source(
    data: st.DataObject,
) -> None:
    for name, option in OPTIONS.items():
        rule = re.escape(RULE_OF[name])
        must = rf"must be ({rule}|at most \d+)(; the line search .*)?"
        if option.allowed.kind is not bool:
            raw = data.draw(wrong_texts(name), label=name)
            typed = [raw] if option.allowed.many else raw
            message = refused(name, typed, flag_of(name))
            assert re.fullmatch(rf"{flag_of(name)} .*: {must}", message), message
            assert len(message) < 400
        raw = data.draw(wrong_plain_values(name), label=name)
        for source in ("my.toml [train]", CHECKPOINT):
            message = refused(name, raw, source)
            assert re.fullmatch(rf"{re.escape(source)} {name} = .*: {must}", message), message


@pytest.fixture
def no_work_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is accepted against the rules must not train or write where the tests are started."""

    def accepted(*_: Any) -> None:
        raise AssertionError("accepted what the rules forbid")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxstepper.commands.train.run_train", accepted)
    monkeypatch.setattr("jaxstepper.commands.simulate.run_simulate", accepted)


@settings(FEW, max_examples=60)
@given(data=st.data())
def test_commands_leave_with_code_2_and_that_line_alone(
    no_work_begins: None, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = [name for name, option in OPTIONS.items() if option.allowed.kind is not bool]
    name = data.draw(st.sampled_from(names))
    command = data.draw(st.sampled_from([c for c in ("train", "simulate") if accepts(c, name)]))
    if OPTIONS[name].flag and data.draw(st.booleans()):
        raw = data.draw(wrong_texts(name).filter(lambda text: not text.startswith("-")))
        outcome = call(command, Path(flag_of(name)), Word(raw))
        start = flag_of(name)
    else:
        file = tmp_path_factory.getbasetemp() / "wrong.toml"
        raw = data.draw(wrong_plain_values(name).filter(lambda raw: not isinstance(raw, dict)))
        value = as_toml(tuple(raw) if isinstance(raw, list) else raw)
        file.write_text(f"[{command}]\n{name} = {value}\n", encoding="utf-8")
        outcome = call(command, "--config", file)
        start = f"{file} [{command}] {name} = "
    assert (outcome.code, outcome.out, outcome.warned) == (2, "", "")
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith(f"jaxstepper {command}: error: {start}"), outcome.err


class Word(str):
    """One argument: `call` takes it whole, blanks and all."""

    __slots__ = ()

    def split(self, *_: Any) -> list[str]:  # type: ignore[override]
        return [str(self)]
