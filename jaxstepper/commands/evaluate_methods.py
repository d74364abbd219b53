"""The methods that `evaluate` compares: those that its arguments name, as far as they can run."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path

from jaxstepper.commands.evaluate_arguments import PEERS, RULES, SYMMETRIZED
from jaxstepper.errors import UserError
from jaxstepper.evaluation import rebound_peers
from jaxstepper.evaluation.individual import AARSETH, IndividualMethod, with_longer_steps
from jaxstepper.evaluation.measure import TOGETHER_UP_TO
from jaxstepper.evaluation.method import Method, RuleMethod
from jaxstepper.evaluation.problems import Problem
from jaxstepper.evaluation.rebound_peers import IAS15, REBOUND_LEAPFROG, Ias15, ReboundLeapfrog
from jaxstepper.evaluation.run import LEAPFROG
from jaxstepper.physics.gravity import Gravity
from jaxstepper.reporting.note import note
from jaxstepper.runs.models import TrainedModel, criterion_of_model, load_model, rule_of_model
from jaxstepper.settings.config import DERIVATIVES, ECCENTRIC, ENCOUNTERS, ORBITAL
from jaxstepper.settings.stored import from_dict
from jaxstepper.stepping import literature as rules
from jaxstepper.stepping.criteria import DEFAULT_ETA
from jaxstepper.stepping.rule import Rule, symmetrized
from jaxstepper.stepping.scheme import BY_NAME, name_of

POWERS = (1.0, 1.25)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A rule or criterion to judge, or an integrator of rebound.

    Attributes:
        name: its name.
        model: the network of a learned rule.
        power: the exponent of a power law.
        distilled: whether polynomials take the place of the network.
        fastest: how many bodies it is asked about, if not as many as in its training.
    """

    name: str
    model: TrainedModel | None = None
    power: float | None = None
    distilled: bool = False
    fastest: int | None = None

    @property
    def kind(self) -> str:
        """The name without what follows a colon."""
        return self.name.partition(":")[0]

    @property
    def is_individual(self) -> bool:
        """Whether each body has steps of its own."""
        learned = self.model is not None and from_dict(self.model.config)[0].feature_type
        return self.name == AARSETH or learned == DERIVATIVES

    def individual(self) -> IndividualMethod:
        """The method of a candidate with individual steps."""
        if self.model is None:
            return IndividualMethod()
        config = replace(from_dict(self.model.config)[0], dtype="float64")
        criterion = criterion_of_model(config, self.model, DEFAULT_ETA)
        return IndividualMethod(self.name, criterion=partial(with_longer_steps, criterion))

    def chosen(self, gravity: Gravity) -> Rule:
        """The rule at factor 1."""
        if self.model is not None:
            config, _ = from_dict(self.model.config)
            config = replace(config, dtype="float64", distill=self.distilled)
            if self.fastest is not None:
                config = replace(config, fastest=self.fastest)
            return rule_of_model(config, self.model, gravity)
        if self.power is not None:
            return rules.by_name("power-law", gravity, power=self.power)
        return rules.by_name(self.name, gravity)


@dataclass(frozen=True)
class Sweep:
    """A method on problems of one kind."""

    method: Method
    problems: Sequence[Problem]

    @property
    def label(self) -> str:
        """What is run, for bars and notes."""
        return f"{self.method.label}: {names_of(self.problems)}"


def names_of(problems: Sequence[Problem]) -> str:
    """The names of problems in a few words."""
    names = [each.name for each in problems]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} problems)"


def candidates(options: argparse.Namespace) -> list[Candidate]:
    """The rules that were asked for, the models last."""
    found = []
    by_default = [name for name in RULES if name != REBOUND_LEAPFROG]
    for name in options.rules if options.rules is not None else by_default:
        base, _, power = name.partition(":")
        if base == "power-law":
            powers = (_power(name, power),) if power else POWERS
            found += [Candidate(f"power-law:{each:g}", power=each) for each in powers]
        elif name not in RULES:
            raise UserError(
                f"--rules {name}: there is no such rule; choose from {', '.join(RULES)}"
            )
        elif name in PEERS and not rebound_peers.is_installed():
            why = "it needs pip install 'jaxstepper[rebound]'"
            note(f"{name} is left out: {why}", quiet=options.quiet)
        else:
            found.append(Candidate(name))
    for path in options.model:
        model = load_model(path, options.checkpoint_dir)
        name = f"learned:{Path(path).stem}"
        taken = any(each.name == name for each in found)
        name = f"learned:{path}" if taken else name
        found.append(Candidate(name, model=model))
        inputs, few = from_dict(model.config)[0].feature_type, options.fastest
        if options.distill and inputs in (ORBITAL, ECCENTRIC, ENCOUNTERS):
            found.append(Candidate(f"{name}:distilled", model=model, distilled=True))
        if few is not None and inputs == ENCOUNTERS:
            asked = f"fastest-{few}" if few else "all"
            found.append(Candidate(f"{name}:{asked}", model=model, fastest=few))
    return list({each.name: each for each in found}.values())


def _power(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"--rules {name}: {text} is not a power; try power-law:1.25") from error


def sweeps(
    options: argparse.Namespace, to_judge: Sequence[Candidate], problems: Sequence[Problem]
) -> Iterator[Sweep]:
    """The sweeps to run, grouped by the kind of their problems."""

    def kind(each: Problem) -> tuple:
        return (*each.tables.shape[1:], each.softening)

    for _, group in groupby(sorted(problems, key=kind), key=kind):
        alike = list(group)
        for candidate in to_judge:
            for method in _methods(options, candidate, alike):
                yield Sweep(method, alike)


def _methods(
    options: argparse.Namespace, candidate: Candidate, problems: Sequence[Problem]
) -> Iterator[Method]:
    """The forms of a candidate that can run on the problems."""
    if candidate.name in PEERS:
        yield Ias15() if candidate.name == IAS15 else ReboundLeapfrog()
        return
    if candidate.is_individual:
        # The steps of a few bodies are alike.
        if options.rules is not None or problems[0].tables.shape[1] > TOGETHER_UP_TO:
            yield candidate.individual()
        return
    try:
        chosen = candidate.chosen(Gravity(problems[0].softening))
        for each in problems:
            chosen.check_masses(each.tables[..., 0])
    except UserError as error:
        if candidate.model is not None:
            raise
        if options.rules is not None:
            where = names_of(problems)
            note(f"{candidate.name} is left out of {where}: {error}", quiet=options.quiet)
        return
    own = name_of(chosen.scheme)
    # A rule that was made for another scheme than the leapfrog stays on it.
    for name in options.schemes if own == LEAPFROG else [own]:
        on_scheme = chosen if name == own else chosen.on(BY_NAME[name])
        yield from _forms(options, candidate, name, on_scheme)


def _forms(
    options: argparse.Namespace, candidate: Candidate, scheme: str, chosen: Rule
) -> Iterator[Method]:
    """A rule on a scheme as it is, and symmetrised where that is wanted and possible."""
    plain = RuleMethod(candidate.name, scheme, chosen=chosen)
    yield plain
    by_default = candidate.kind in SYMMETRIZED
    wanted = by_default or (options.symmetrize_all and candidate.kind != "fixed")
    if wanted and not chosen.irreversible:
        yield RuleMethod(candidate.name, scheme, symmetrized=True, chosen=symmetrized(chosen))
    elif by_default:
        words = f"{plain.label} is not symmetrised: {chosen.irreversible}"
        note(words, quiet=options.quiet)
