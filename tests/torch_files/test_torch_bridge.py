"""The bridge against torch itself: networks and optimisers built here from the contract's words."""

import functools
import os
import pickle
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxstepper.errors import UserError
from jaxstepper.network.features import FeatureSpec, network_input, observe
from jaxstepper.network.history import empty_history
from jaxstepper.network.step_network import StepNetwork, init_variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.physics.particles import from_table
from jaxstepper.torch_files import file as torch_bridge
from jaxstepper.torch_files.content import TorchCheckpoint
from jaxstepper.torch_files.state_dict import (
    adam_from_state_dict,
    adam_state_dict,
    network_shape,
    to_state_dict,
)

torch = pytest.importorskip("torch")
nn = torch.nn

GOLDEN = Path(__file__).parents[1] / "golden"
RECORDED = ("plain", "history", "fourier")
LR, DECAY = 3e-3, 0.02
INPUTS = 11


class TorchNetwork(nn.Module):
    """The torch simulator's network, from its description."""

    def __init__(self, inputs, hidden, activation, dropout, fourier_dim, dtype):
        super().__init__()
        self.embedding = None
        if fourier_dim:
            self.embedding = nn.Module()
            frequencies = torch.zeros(fourier_dim // 2, inputs, dtype=dtype)
            self.embedding.B = nn.Parameter(frequencies, requires_grad=False)
        kinds = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "silu": nn.SiLU}
        layers, width = [], fourier_dim or inputs
        for size in hidden:
            layers += [nn.Linear(width, size, dtype=dtype), kinds[activation]()]
            layers += [nn.Dropout(dropout)] if dropout > 0 else []
            width = size
        self.model = nn.Sequential(*layers, nn.Linear(width, 2, dtype=dtype), nn.Softplus())

    def forward(self, x):
        if self.embedding is not None:
            phase = 2 * torch.pi * x @ self.embedding.B.T
            x = torch.cat([torch.sin(phase), torch.cos(phase)], dim=-1)
        return self.model(x)


@functools.cache
def make(dtype="float64", steps=3, **settings):
    """A network, its optimiser's transformation and state after some steps, and a checkpoint."""
    network = StepNetwork(
        **{"hidden_dims": (8, 12, 6), "dtype": dtype, "fourier_dim": 10, **settings}
    )
    optimizer = optax.chain(optax.add_decayed_weights(DECAY), optax.adam(LR))

    @jax.jit
    def trained():
        variables = init_variables(network, jax.random.key(1), INPUTS)
        params, state = variables["params"], optimizer.init(variables["params"])
        for step in range(steps):
            updates, state = optimizer.update(gradient_of(params, step), state, params)
            params = optax.apply_updates(params, updates)
        return variables | {"params": params}, state

    variables, state = trained()
    adam = state[1][0]
    checkpoint = TorchCheckpoint(
        epoch=7,
        variables=variables,
        optimizer=adam_state_dict(
            adam, variables, lr=LR, weight_decay=DECAY, decoupled=False, dtype=dtype
        ),
        has_dropout=network.dropout > 0,
        config={"dropout": network.dropout, "unknown_to_us": [1, None, "x"], "lr": np.float64(LR)},
        history_len=0,
        feature_type="delta_mag",
        dtype=dtype,
        train_ic=np.array([[1.0, 0.1, 0.2, 0.3, 0.4], [2.0, -0.1, 0.2, 0.3, 1 / 3]]),
        loss=0.5,
        info={"last": np.float32(0.25)},
        logs={"converged": np.bool_(True), "nested": {"x": jnp.arange(3.0)}},
        config_summary="epochs=1",
    )
    return network, optimizer, state, checkpoint


def gradient_of(params, seed):
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return jax.tree.unflatten(
        tree, [jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in leaves]
    )


def torch_twin(network, dtype):
    fourier = network.fourier_dim if network.fourier_scale > 0 else 0
    twin = TorchNetwork(
        INPUTS, network.hidden_dims, network.activation, network.dropout, fourier, dtype
    )
    return twin.eval()


def plain(value):
    """A file's content with the foreign objects of the torch system opened up."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return plain(vars(value)) if type(value).__name__ == "ParticleTorch" else value


def assert_same(a, b, where="file"):
    """Equal in every value, and every tensor bit for bit."""
    assert isinstance(a, torch.Tensor) == isinstance(b, torch.Tensor), where
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), where
        assert a.numpy().tobytes() == b.numpy().tobytes(), where
    elif isinstance(a, dict):
        assert set(a) == set(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert type(a) is type(b) and a == b, where


def one_line(error):
    assert "\n" not in str(error.value) and 20 < len(str(error.value)) < 300
    return str(error.value)


SETTINGS = [
    {"activation": "relu", "dropout": 0.0},
    {"activation": "tanh", "dropout": 0.2},
    {"activation": "sigmoid", "dropout": 0.0, "fourier_scale": 0.5},
    {"activation": "silu", "dropout": 0.1, "fourier_scale": 0.5},
    {"hidden_dims": (4,) * 12, "dropout": 0.2},
]


@pytest.mark.parametrize(
    ("settings", "dtype", "tolerance"),
    [
        *((settings, "float64", 1e-12) for settings in SETTINGS),
        *((settings, "float32", 1e-5) for settings in SETTINGS[2:4]),
    ],
    ids=str,
)
def test_torch_predicts_the_same(tmp_path, settings, dtype, tolerance):
    network, _, _, checkpoint = make(dtype, **settings)
    torch_bridge.write(tmp_path / "c.pt", checkpoint)
    twin = torch_twin(network, getattr(torch, dtype))
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    assert list(content["model_state_dict"]) == list(twin.state_dict())
    twin.load_state_dict(content["model_state_dict"], strict=True)
    x = np.random.default_rng(0).normal(size=(20, INPUTS)).astype(dtype)
    ours = np.asarray(jax.jit(network.apply)(checkpoint.variables, jnp.asarray(x)))
    theirs = twin(torch.from_numpy(x)).detach().numpy()
    assert ours.dtype == theirs.dtype == dtype
    np.testing.assert_allclose(ours[:, 0] + 1e-6, theirs[:, 0] + 1e-6, rtol=tolerance)
    shape = network_shape(to_state_dict(checkpoint.variables, network.dropout))
    fourier = network.fourier_dim if network.fourier_scale > 0 else None
    assert shape == (INPUTS, network.hidden_dims, network.dropout > 0, fourier)


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("fourier_scale", [-1.0, 0.5])
def test_torch_adam_goes_on_as_ours(tmp_path, steps, fourier_scale):
    network, optimizer, state, checkpoint = make(steps=steps, fourier_scale=fourier_scale)
    torch_bridge.write(tmp_path / "c.pt", checkpoint)
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    twin = torch_twin(network, torch.float64)
    twin.load_state_dict(content["model_state_dict"])
    adam = torch.optim.Adam(twin.parameters(), lr=1.0)
    fresh = adam.state_dict()
    assert set(fresh["param_groups"][0]) == set(content["optimizer_state"]["param_groups"][0])
    assert (steps == 0) == (content["optimizer_state"]["state"] == {})
    adam.load_state_dict(content["optimizer_state_dict"])

    params = checkpoint.variables["params"]
    for step in (10, 11):
        gradient = gradient_of(params, step)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        named = to_state_dict({"params": gradient, "constants": {}}, network.dropout)
        for name, parameter in twin.named_parameters():
            parameter.grad = torch.from_numpy(named[name]) if name in named else None
        adam.step()
    expected = to_state_dict(checkpoint.variables | {"params": params}, network.dropout)
    for name, parameter in twin.named_parameters():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], rtol=0, atol=1e-10)

    # And back: torch's state after these steps is ours after them.
    optimizer_state = {
        "state": {
            p: {k: v.numpy() for k, v in e.items()} for p, e in adam.state_dict()["state"].items()
        },
        "param_groups": adam.state_dict()["param_groups"],
    }
    back = adam_from_state_dict(optimizer_state, checkpoint.variables)
    assert back.count == steps + 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), back.mu, state[1][0].mu)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), back.nu, state[1][0].nu)


def test_a_run_of_many_systems_keeps_its_bodies(tmp_path):
    one = make()[3]
    checkpoint = replace(one, train_ic=np.stack([one.train_ic, 2 * one.train_ic]))
    torch_bridge.write(tmp_path / "many.pt", checkpoint)
    back = torch_bridge.read(tmp_path / "many.pt")
    np.testing.assert_array_equal(back.train_ic, checkpoint.train_ic)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_ours_round_trips(tmp_path, dtype):
    _, _, state, checkpoint = make(dtype, fourier_scale=1.0)
    torch_bridge.write(tmp_path / "a.pt", checkpoint)
    back = torch_bridge.read(tmp_path / "a.pt")
    for old, new in ((checkpoint.variables, back.variables), (state[1][0], back.adam)):
        jax.tree.map(np.testing.assert_array_equal, old, new)
        assert [x.dtype for x in jax.tree.leaves(old)] == [x.dtype for x in jax.tree.leaves(new)]
    assert (back.epoch, back.dtype, back.has_dropout, back.loss) == (7, dtype, True, 0.5)
    assert back.config == checkpoint.config and type(back.config["lr"]) is float
    np.testing.assert_array_equal(back.train_ic, checkpoint.train_ic)
    torch_bridge.write(tmp_path / "b.pt", back)
    a, b = (torch.load(tmp_path / name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert_same(a, b)
    assert sorted(os.listdir(tmp_path)) == ["a.pt", "b.pt"]


def test_contract_of_the_file(tmp_path):
    _, _, _, checkpoint = make()
    torch_bridge.write(tmp_path / "c.pt", checkpoint)
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    recorded = "epoch loss info logs extra config config_summary history_len feature_type dtype"
    twice = "model_state_dict model_state optimizer_state_dict optimizer_state"
    assert set(content) == set((recorded + " " + twice).split())
    assert content["model_state"] is content["model_state_dict"]
    assert content["optimizer_state"] is content["optimizer_state_dict"]
    assert content["extra"] == {"train_ic": checkpoint.train_ic.tolist()}
    step = content["optimizer_state"]["state"][0]["step"]
    assert step.shape == () and step.dtype == torch.float64 and step == 3
    assert torch_bridge.file_name(7) == "model_epoch_0007.pt"


def test_without_optimizer_and_table(tmp_path):
    checkpoint = replace(make()[3], optimizer=None, train_ic=None, loss=None, logs=None)
    torch_bridge.write(tmp_path / "c.pt", checkpoint)
    back = torch_bridge.read(tmp_path / "c.pt")
    assert (back.adam, back.train_ic, back.loss, back.logs) == (None, None, None, None)


def test_other_optimizers_have_no_adam_state(tmp_path):
    network, _, _, checkpoint = make()
    twin = torch_twin(network, torch.float64)
    sgd = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9).state_dict()
    torch_bridge.write(tmp_path / "c.pt", replace(checkpoint, optimizer=sgd))
    back = torch_bridge.read(tmp_path / "c.pt")
    assert back.adam is None and back.optimizer["param_groups"][0]["momentum"] == 0.9


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_file_predicts_what_was_recorded(name):
    checkpoint = torch_bridge.read(GOLDEN / f"torch_{name}.pt")
    recorded = np.load(GOLDEN / f"torch_{name}_predictions.npz")
    config = checkpoint.config
    network = StepNetwork(
        hidden_dims=tuple(config["hidden_dims"]),
        activation=config["activation"],
        dropout=config["dropout"],
        fourier_scale=config["fourier_scale"],
        fourier_dim=config["fourier_dim"],
    )
    gravity = Gravity(0.0)
    spec = FeatureSpec(checkpoint.feature_type, checkpoint.history_len, gravity.softening)
    p = from_table(recorded["table"], gravity.acceleration, jnp.float64)
    observed = observe(spec, gravity, p)
    x = network_input(spec, empty_history(spec.history_len, p), observed)
    dt = network.apply(checkpoint.variables, x)[0] + 1e-6
    np.testing.assert_allclose(dt, recorded["predicted_dt_simulation"], rtol=1e-12)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_file_round_trips(tmp_path, name):
    checkpoint = torch_bridge.read(GOLDEN / f"torch_{name}.pt")
    torch_bridge.write(tmp_path / "c.pt", checkpoint)
    particle = type("ParticleTorch", (), {"__module__": "src.particle"})
    with torch.serialization.safe_globals([particle]):
        recorded = torch.load(GOLDEN / f"torch_{name}.pt", weights_only=True)
    assert_same(plain(recorded), plain(torch.load(tmp_path / "c.pt", weights_only=True)))
    assert checkpoint.adam.count > 0
    assert checkpoint.train_ic.shape == (3, 5)
    assert isinstance(checkpoint.logs["final_particle"]["position"], np.ndarray)
    assert checkpoint.logs["converged"] is True


class Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("place", ["top", "logs", "config", "weights", "whole", "legacy", "pickle"])
def test_code_in_a_file_does_not_run(tmp_path, place):
    torch_bridge.write(tmp_path / "c.pt", make()[3])
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    flag, path = tmp_path / "it_ran", tmp_path / "hostile.pt"
    hostile = Hostile(flag)
    if place == "logs":
        content["logs"]["nested"] = [{"deeper": (1, hostile)}]
    elif place == "config":
        content["config"][hostile] = 1
    elif place == "weights":
        content["model_state_dict"]["model.0.bias"] = hostile
    else:
        content["anything"] = hostile
    if place == "pickle":
        path.write_bytes(pickle.dumps(content["anything"]))
    else:
        legacy = place == "legacy"
        whole = hostile if place == "whole" else content
        torch.save(whole, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError) as error:
        torch_bridge.read(path)
    assert not flag.exists()
    message = one_line(error)
    assert str(path) in message and (place == "pickle" or "posix.system" in message)
    # The bait works: a naive load does run it.
    torch.load(path, weights_only=False) if place != "pickle" else pickle.loads(path.read_bytes())
    assert flag.exists()


def test_a_foreign_class_is_named_and_refused(tmp_path):
    torch.save({"config": {}, "logs": Path("x")}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"pathlib.*could run code"):
        torch_bridge.read(tmp_path / "c.pt")


def edited(change):
    """Writes a good file with one thing changed."""

    def write(path):
        torch_bridge.write(path, make(fourier_scale=1.0)[3])
        content = torch.load(path, weights_only=True)
        content["weights"] = content["model_state_dict"]
        content["adam"] = content["optimizer_state_dict"]["state"]
        change(content)
        torch.save(content, path)

    return write


def fan_out(content):
    value = [0]
    for _ in range(40):
        value = [value, value]
    content["logs"]["fan"] = value


def cycle(content):
    content["logs"]["cycle"] = value = []
    value.append(value)


def truncated(path):
    edited(lambda c: None)(path)
    path.write_bytes(path.read_bytes()[:-300])


def compressed(path):
    edited(lambda c: c.update(logs={"zeros": torch.zeros(100_000)}))(path)
    with zipfile.ZipFile(path) as archive:
        entries = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)


BAD_FILES = {
    "missing": lambda path: None,
    "directory": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello\nworld\n" * 100),
    "zip": lambda path: zipfile.ZipFile(path, "w").writestr("a", "b"),
    "truncated": truncated,
    "compressed": compressed,
    "no dict": lambda path: torch.save([1, 2], path),
    "tensor": lambda path: torch.save(torch.ones(3), path),
    "empty dict": lambda path: torch.save({}, path),
    "only weights": lambda path: torch.save({"model.0.weight": torch.ones(2, 11)}, path),
    "no config": edited(lambda c: c.pop("config")),
    "config list": edited(lambda c: c.update(config=[1])),
    "config keys": edited(lambda c: c["config"].update({3: 4})),
    "no epoch": edited(lambda c: c.pop("epoch")),
    "epoch text": edited(lambda c: c.update(epoch="seven")),
    "negative epoch": edited(lambda c: c.update(epoch=-1)),
    "loss text": edited(lambda c: c.update(loss="low")),
    "logs list": edited(lambda c: c.update(logs=[1])),
    "feature_type": edited(lambda c: c.update(feature_type="best\nof all")),
    "history_len": edited(lambda c: c.update(history_len=1)),
    "other dtype": edited(lambda c: c.update(dtype="float32")),
    "no dtype": edited(lambda c: c.pop("dtype")),
    "no weights": edited(lambda c: [c.pop("model_state_dict"), c.pop("model_state")]),
    "a weight missing": edited(lambda c: c["weights"].pop("model.3.weight")),
    "a layer missing": edited(
        lambda c: [c["weights"].pop(f"model.3.{x}") for x in ("weight", "bias")]
    ),
    "weight text": edited(lambda c: c["weights"].update({"model.0.bias": "x"})),
    "weight foreign": edited(lambda c: c["weights"].update({"model.7.gain": torch.ones(3)})),
    "weight shape": edited(
        lambda c: c["weights"].update({"model.3.weight": torch.ones(3, 3).double()})
    ),
    "weight chain": edited(
        lambda c: c["weights"].update({"model.3.weight": torch.ones(12, 9, dtype=torch.float64)})
    ),
    "weight dtype": edited(lambda c: c["weights"].update({"model.3.bias": torch.ones(12)})),
    "weight integer": edited(lambda c: c["weights"].update({"model.0.bias": torch.arange(8)})),
    "weight bfloat16": edited(
        lambda c: c["weights"].update({"model.0.bias": torch.ones(8, dtype=torch.bfloat16)})
    ),
    "weight sparse": edited(
        lambda c: c["weights"].update({"model.0.bias": torch.eye(8).to_sparse()})
    ),
    "weight expanded": edited(
        lambda c: c["weights"].update({"model.0.bias": torch.ones(1).expand(10**12)})
    ),
    "frequencies": edited(lambda c: c["weights"].update({"embedding.B": torch.ones(5)})),
    "table": edited(lambda c: c.update(extra={"train_ic": [[1.0, 2.0]]})),
    "ragged table": edited(lambda c: c.update(extra={"train_ic": [[1.0, 2.0, 3.0], [1.0]]})),
    "adam list": edited(lambda c: c.update(optimizer_state_dict=[1])),
    "adam keys": edited(lambda c: c.update(optimizer_state_dict={"state": {}})),
    "adam misses one": edited(lambda c: c["adam"].pop(2)),
    "adam shape": edited(lambda c: c["adam"][1].update(exp_avg=torch.ones(3))),
    "adam step": edited(lambda c: c["adam"][1].update(step=torch.tensor(float("nan")))),
    "adam steps differ": edited(lambda c: c["adam"][1].update(step=torch.tensor(9.0))),
    "fan out": edited(fan_out),
    "cycle": edited(cycle),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_are_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "bad.pt"
    BAD_FILES[kind](path)
    with pytest.raises(UserError) as error:
        torch_bridge.read(path)
    assert str(path) in one_line(error)


def test_unwritable_place(tmp_path):
    checkpoint = make()[3]
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "c.pt", tmp_path / "file" / "c.pt", tmp_path):
        with pytest.raises(UserError) as error:
            torch_bridge.write(path, checkpoint)
        one_line(error)
    assert os.listdir(tmp_path) == ["file"]


def test_only_plain_values_are_written(tmp_path):
    with pytest.raises(TypeError, match="plain values"):
        torch_bridge.write(tmp_path / "c.pt", replace(make()[3], info={"path": Path("x")}))
    assert not os.listdir(tmp_path)


def test_missing_torch_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"pip install 'jaxstepper\[torch\]'"):
        torch_bridge.read("c.pt")
