"""Loads trained networks: from a run, one of its epochs, or a `.pt` file."""

import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxstepper.errors import UserError
from jaxstepper.network.distilled import distilled
from jaxstepper.network.features import FeatureSpec
from jaxstepper.network.learned import DEFAULT_TOLERANCE, learned_rule
from jaxstepper.network.learned_criterion import LearnedCriterion
from jaxstepper.network.step_network import Variables, as_step_network, init_variables
from jaxstepper.physics.gravity import Gravity
from jaxstepper.runs import checkpoints, folders
from jaxstepper.runs.domain import Domain, outside
from jaxstepper.runs.plans import adopt, make_features, make_network, require_room
from jaxstepper.settings.config import DERIVATIVES, Config
from jaxstepper.settings.request import Request
from jaxstepper.settings.stored import from_dict
from jaxstepper.stepping.rule import Number, Rule
from jaxstepper.stepping.scheme import BY_NAME as SCHEMES
from jaxstepper.torch_files import file as torch_bridge
from jaxstepper.torch_files.content import TorchCheckpoint
from jaxstepper.torch_files.state_dict import network_shape, to_state_dict

# Of a learned criterion, as of Aarseth's.
DEFAULT_ETA = 0.02


@dataclass(frozen=True)
class TrainedModel:
    """A network and what it was trained with.

    Attributes:
        name: its origin, for messages.
        epoch: the epoch it was saved in, from 0.
        variables: the network's weights and constants.
        config: the flat config that it was trained with.
        initial_conditions: the tables `[B, N, 1 + 2 D]` that it was trained on, if they are known.
        own: a description of the program's own module that it is the weights of, or "".
        domain: what it is good for (`runs.domain`), if that is known.
    """

    name: str
    epoch: int
    variables: Variables
    config: dict[str, Any]
    initial_conditions: np.ndarray | None
    own: str = ""
    domain: Domain = field(default_factory=dict)


def load_model(model_path: str, checkpoint_dir: str) -> TrainedModel:
    """Loads the model of `--model-path`: RUN (its newest epoch), RUN/EPOCH, or FILE.pt.

    Raises:
        UserError: there is no such model, or it cannot be read.
    """
    if Path(model_path).suffix == ".pt":
        return _from_torch(torch_bridge.read(model_path), model_path)
    checkpoint = checkpoints.load(*folders.locate(model_path, checkpoint_dir))
    return TrainedModel(
        str(checkpoint.path),
        checkpoint.epoch,
        checkpoint.variables,
        checkpoint.config,
        checkpoint.initial_conditions,
        checkpoint.about.get("own_network", ""),
        checkpoint.about.get("domain", {}),
    )


def rule_of_model(
    config: Config, model: TrainedModel, gravity: Gravity, own: nn.Module | None = None
) -> Rule:
    """The step-size rule of a model; its network and inputs are those of `config`, or `own`.

    Raises:
        UserError: the model has another network, or is for individual steps.
    """
    if config.feature_type == DERIVATIVES:
        raise UserError(
            f"{model.name}: was trained for individual steps; simulate takes it with --scheme "
            "hermite --individual --controller learned, and programs with js.load_criterion"
        )
    network, variables = _network_of(config, model, own, "load_rule")
    features = make_features(config)
    trained = SCHEMES[from_dict(model.config)[0].scheme]
    rule = learned_rule(network, features, gravity, variables, config.tolerance, trained)
    if config.distill:
        rule = distilled(rule)
    return rule.on(SCHEMES[config.scheme])


def criterion_of_model(
    config: Config, model: TrainedModel, eta: Number | None = None, own: nn.Module | None = None
) -> LearnedCriterion:
    """The criterion of a model for individual steps, with its network as in `rule_of_model`.

    Raises:
        UserError: the model has another network, or is for shared steps.
    """
    if config.feature_type != DERIVATIVES:
        raise UserError(
            f"{model.name}: was trained for steps that all bodies share; leave out --individual, "
            "or train one with --objective evolution"
        )
    network, variables = _network_of(config, model, own, "load_criterion")
    return LearnedCriterion(network, variables, DEFAULT_ETA if eta is None else eta)


def _network_of(
    config: Config, model: TrainedModel, own: nn.Module | None, loader: str
) -> tuple[nn.Module, Variables]:
    """The network of a model and its weights, in the dtype of the config."""
    network: Any = make_network(config)
    if own is not None:
        network = as_step_network(own, network.dtype, network.positive)
    elif model.own:
        raise UserError(
            f"{model.name}: was trained with {model.own} of a program; "
            f"js.{loader}(..., network=...) takes that module"
        )
    else:
        require_room(config)
    return network, variables_for(network, make_features(config), model)


def load_rule(
    model_path: str | Path,
    gravity: Gravity = Gravity(),  # noqa: B008 (frozen)
    tolerance: float = DEFAULT_TOLERANCE,
    checkpoint_dir: str = "checkpoints",
    network: nn.Module | None = None,
    fastest: int | None = None,
) -> Rule:
    """The step-size rule of a trained network, in JAX's default precision.

    Args:
        model_path: RUN (its newest epoch), RUN/EPOCH, or FILE.pt.
        gravity: the force; its softening must be that of the training, unless the network is free
            of scale.
        tolerance: energy error to aim for, if the network has such an input; `scaled` makes the
            steps of others longer or shorter.
        checkpoint_dir: folder that holds the runs.
        network: the module that was trained, if it was a program's own.
        fastest: how many bodies, those that fall fastest, a network of encounters is asked about,
            which takes less time; 0 for all. None for as many as in its training.

    Raises:
        UserError: there is no such network, it cannot be read, or the softening is another.

    Warns of a tolerance that the network is not known to keep to; `simulate` warns of bodies, too.
    """
    model = load_model(str(model_path), checkpoint_dir)
    for said in outside(model.domain, [{"tolerance": tolerance}]):
        where = f"outside of what {model_path} is known to be good for: {said}"
        warnings.warn(where, stacklevel=2)
    asked = Config(softening=gravity.softening, tolerance=tolerance)
    sources = {"softening": "gravity.softening"}
    if fastest is not None:
        asked, sources = replace(asked, fastest=fastest), {**sources, "fastest": "fastest"}
    request = adopt(Request(asked, sources), model.config, model.name)
    # Whatever dtype the network was trained in, it runs in that of the particles.
    config = replace(request.config, dtype=jnp.zeros((), float).dtype.name)
    return rule_of_model(config, model, gravity, network)


def load_criterion(
    model_path: str | Path,
    eta: Number = DEFAULT_ETA,
    checkpoint_dir: str = "checkpoints",
    network: nn.Module | None = None,
) -> LearnedCriterion:
    """The criterion for individual steps of a trained network, in JAX's default precision.

    Args:
        model_path: RUN (its newest epoch), or RUN/EPOCH.
        eta: the error of a given time goes about as its square, as with Aarseth's criterion.
        checkpoint_dir: folder that holds the runs.
        network: the module that was trained, if it was a program's own.

    Raises:
        UserError: there is no such network, it cannot be read, or it is for shared steps.
    """
    model = load_model(str(model_path), checkpoint_dir)
    config, _ = from_dict(model.config)
    config = replace(config, dtype=jnp.zeros((), float).dtype.name)
    return criterion_of_model(config, model, eta, network)


load_controller = load_rule
"""The former name of `load_rule`."""


def _from_torch(file: TorchCheckpoint, name: str) -> TrainedModel:
    table = file.train_ic
    tables = table if table is None or table.ndim == 3 else table[None]
    return TrainedModel(name, file.epoch, file.variables, torch_config(file), tables)


def torch_config(file: TorchCheckpoint) -> dict[str, Any]:
    """The config of a `.pt` file, corrected by what its weights say."""
    state_dict = to_state_dict(file.variables, float(file.has_dropout))
    shape = network_shape(state_dict)
    return {
        **file.config,
        "hidden_dims": list(shape.hidden_dims),
        "history_len": file.history_len,
        "feature_type": file.feature_type,
        "dtype": file.dtype,
    }


def variables_for(network: nn.Module, features: FeatureSpec, model: TrainedModel) -> Variables:
    """The model's variables in the network's dtype; a UserError if they are another network's."""
    init = partial(init_variables, network, input_size=features.size)
    like = jax.eval_shape(init, jax.random.PRNGKey(0))
    if jax.tree.map(jnp.shape, model.variables) != jax.tree.map(jnp.shape, like):
        widths = getattr(network, "hidden_dims", ())
        raise UserError(
            f"{model.name}: its weights are not of a network with {features.size} inputs and "
            f"hidden widths {' '.join(map(str, widths))}"
        )
    return jax.tree.map(lambda x: jnp.asarray(x, network.dtype), model.variables)
