"""Reads the command line and the TOML file it names (standard library only)."""

import argparse
import re
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from jaxstepper.errors import UserError
from jaxstepper.settings.checks import check
from jaxstepper.settings.command_parser import HelpFormatter, words_of_examples
from jaxstepper.settings.config import DEFAULTS, OPTIONS, Config, accepts, flag_of, read_option
from jaxstepper.settings.help import ALONE, BRIEF, COMMON, EXAMPLES, UNSET
from jaxstepper.settings.option import Command
from jaxstepper.settings.request import Request
from jaxstepper.settings.toml_file import Sourced, read_toml
from jaxstepper.settings.values import as_typed, line_error, nearest


def parse(command: Command, argv: Sequence[str], prog: str | None = None) -> Request:
    """The request of a command line; `--help` prints and exits.

    `both` accepts every flag and reads the file as train does. To simulate, call `check_history`
    once the checkpoint's history_len is known.

    Raises:
        UserError: a flag or key is unknown, or a value is of the wrong kind or not allowed.
    """
    flags, path = _read_flags(command, argv, prog)
    return combine(command, read_toml(path)["train" if command == "both" else command], flags)


def parse_both(argv: Sequence[str], prog: str | None = None) -> tuple[Request, Request]:
    """The requests to `train` and to `simulate` of one command line; raises as `parse`."""
    flags, path = _read_flags("both", argv, prog)
    file = read_toml(path)
    return combine("train", file["train"], flags), combine("simulate", file["simulate"], flags)


def combine(command: Command, file: Sourced, flags: Sourced) -> Request:
    """The request of the options of a file and of flags, which win; raises as `parse`."""
    options = file | {name: flags[name] for name in flags if accepts(command, name)}
    config = Config(**{name: value for name, (value, _) in options.items()})
    return check(command, Request(config, {name: source for name, (_, source) in options.items()}))


class _Parser(argparse.ArgumentParser):
    def flags(self) -> list[str]:
        """All known spellings."""
        return list(self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        """Raises a UserError instead of printing the usage and leaving."""
        match = re.match(r"argument (\S+): (.*)", message, re.DOTALL)
        if match is None:
            raise line_error(message)
        flag = next(each for each in match[1].split("/") if each.startswith("--"))
        allowed = next((o.allowed for n, o in OPTIONS.items() if flag_of(n) == flag), None)
        if allowed is None:
            raise line_error(f"{flag}: {match[2]}")
        rule = "takes no value" if allowed.kind is bool else f"must be {allowed.words}"
        raise line_error(f"{flag}: {match[2]}; {rule}")


class _ShowAll(argparse.Action):
    """Prints the help on every option of the command `const`, and leaves."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        _parser(self.const, parser.prog, every=True).print_help()
        raise SystemExit(0)


def _help_on(name: str, every: bool) -> str:
    """The help on an option: all of it, or what there is room for among the common ones."""
    words = OPTIONS[name].help if every else BRIEF.get(name, OPTIONS[name].help)
    default = _default_words(name)
    return words if not every and default in ("none", "off") else f"{words} (default: {default})"


def _default_words(name: str) -> str:
    default = DEFAULTS[name]
    if name in UNSET:
        return UNSET[name]
    if isinstance(default, bool):
        return "on" if default else "off"
    if default is None:
        return "none"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _parser(command: Command, prog: str | None, every: bool = False) -> _Parser:
    """The parser of a command; its help shows `every` option, by topic, or the common ones."""
    # All values stay text here; `read_option` checks them as it checks those of a file.
    # Suppressed defaults leave only what was given.
    taken = [name for name, declared in OPTIONS.items() if declared.flag and accepts(command, name)]
    parser = _Parser(
        prog=prog or f"jaxstepper {command}",
        usage="%(prog)s [options]",
        epilog=words_of_examples(EXAMPLES[command])
        + f"\n\n--help-all shows all {len(taken)} options, by topic.",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="show the common options")
    words = "show all options, by topic"
    parser.add_argument("--help-all", action=_ShowAll, nargs=0, const=command, help=words)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="TOML file, or the name of one that comes with jaxstepper: shared keys at the top "
        "level, tables [train] and [simulate]; flags win",
    )
    common = [name for name in COMMON[command] if name in taken]
    groups: dict[str, Any] = {}
    for name in taken if every else [*common, *(each for each in taken if each not in common)]:
        declared = OPTIONS[name]
        group = declared.group if every else "common options"
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        allowed = declared.allowed
        shown = every or name in common
        words = _help_on(name, every) if shown else argparse.SUPPRESS
        settings: dict[str, Any] = {"dest": name, "help": words}
        if name == "compile":  # --no-compile would switch nothing off
            settings["action"] = "store_true"
        elif allowed.kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        elif name in ALONE:
            settings |= {"metavar": allowed.metavar, "nargs": "?", "const": ALONE[name]}
        else:
            settings |= {"metavar": allowed.metavar, "nargs": "+" if allowed.many else None}
        also = [declared.also] if declared.also else []
        groups[group].add_argument(flag_of(name), *also, **settings)
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
        return line_error(f"{as_typed(token, '-')}: stands after no flag that takes it; see --help")
    for name, declared in OPTIONS.items():
        if _plain_spelling(flag) in (_plain_spelling(flag_of(name)), declared.also):
            if not declared.flag:
                return line_error(f"{flag}: not a flag; {name} may be set in a TOML file only")
            return line_error(f"{flag}: {command} does not take this flag, {declared.takes} does")
    return line_error(
        f"{as_typed(flag, '-')}: unknown flag; {nearest(flag, known, '--help lists them all')}"
    )


def _read_flags(
    command: Command, argv: Sequence[str], prog: str | None
) -> tuple[Sourced, str | None]:
    """The options that the command line sets, and the path of its TOML file."""
    parser = _parser(command, prog)
    known = parser.flags()
    spelled = {_plain_spelling(flag): flag for flag in known}
    tokens = []
    for token in argv:
        if _is_negative_number(token):
            # argparse takes "-1e-3" for a flag, unless it starts with a space.
            token = " " + token
        elif token.startswith("--"):
            flag, equals, value = token.partition("=")
            token = spelled.get(_plain_spelling(flag), flag) + equals + value
        elif token.startswith("-") and (meant := spelled.get(_plain_spelling("-" + token))):
            # argparse would read "-epochs" as "-e pochs".
            raise line_error(f"{token}: unknown flag; did you mean {meant}?")
        tokens.append(token)
    parsed, rest = parser.parse_known_args(tokens)
    if rest:
        raise _unknown_flag(command, rest[0].strip(), known)
    raw = vars(parsed)
    path = raw.pop("config", None)
    settings: Sourced = {}
    for name, value in raw.items():
        if isinstance(value, str) and value.startswith(" ") and _is_negative_number(value[1:]):
            value = value[1:]
        flag = flag_of(name)
        settings[name] = (read_option(name, value, flag), flag)
    return settings, path
