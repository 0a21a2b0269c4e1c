"""A program and its flags: one for each field of its configuration."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from absl import app, flags

from experiments.run import interrupt
from experiments.run.config import Config, Option, options, text

C = TypeVar("C", bound=Config)


def launch(main: Callable[[C], object], config: type[C]) -> None:
    """Runs a program on what its flags say; its Ctrl-C is watched from here on.

    Args:
      main: takes the configuration.
      config: its class. A value that cannot be ends the program, with a line that
        names the flag.
    """
    interrupt.watch()
    define(config)
    # absl hands to `main` what its parser returns.
    app.run(main, flags_parser=lambda argv: _parse(argv, config))


def define(
    config: type[Config], values: flags.FlagValues = flags.FLAGS
) -> flags.FlagValues:
    """Defines a flag for each field of a configuration.

    Args:
      config: its class.
      values: where to define them; the process's own if left out.
    """
    types = get_type_hints(config)
    for field in dataclasses.fields(config):
        flag = _flag(field, types[field.name])
        # In --help, absl lists what belongs to the program.
        flags.DEFINE_flag(flag, values, module_name=sys.argv[0])
    return values


def read(config: type[C], values: flags.FlagValues = flags.FLAGS) -> C:
    """The configuration that flags say, once they are parsed.

    Raises:
      ValueError: if a value cannot be.
    """
    return config(**{name: values[name].value for name in options(config)})


def _parse(argv: list[str], config: type[C]) -> C:
    left = app.parse_flags_with_usage(argv)
    if len(left) > 1:
        sys.exit(f"error: expected flags only, got {left[1:]}")
    try:
        return read(config)
    except ValueError as error:
        sys.exit(f"error: {error}")


class _Text(flags.ArgumentSerializer):
    """Values in a flag file."""

    def serialize(self, value: Any) -> str:
        return text(value)


class _Parser(flags.ArgumentParser):
    """Takes what `read` makes of the text, and says of what else that it must be so."""

    def __init__(self, read: Callable[[str], Any], what: str) -> None:
        self.syntactic_help = what
        self._read = read

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument
        try:
            return self._read(argument)
        except ValueError:
            raise ValueError(f"must be {self.syntactic_help}") from None


def _integers(argument: str) -> tuple[int, ...]:
    return tuple(int(part) for part in argument.split(",") if argument)


def _names(argument: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in argument.split(",") if argument)


_PARSERS: dict[Any, Callable[[Option], flags.ArgumentParser]] = {
    int: lambda option: flags.IntegerParser(option.least),  # type: ignore[arg-type]
    float: lambda option: flags.FloatParser(option.least),
    str: lambda option: flags.ArgumentParser(),
    tuple[int, ...]: lambda option: _Parser(_integers, "integers, such as 4,6,8"),
    tuple[str, ...]: lambda option: _Parser(_names, "names with commas between them"),
}
_PARSERS |= {kind | None: _PARSERS[kind] for kind in (int, float, str)}
"""The type of a field -> option -> what reads its flag."""


def _flag(field: dataclasses.Field, kind: Any) -> flags.Flag:
    """The flag of a field."""
    option: Option = field.metadata["option"]
    default: Any = field.default
    if kind is bool:
        return flags.BooleanFlag(field.name, default, option.help)
    if kind is str and option.choices:
        return flags.EnumFlag(field.name, default, option.help, option.choices)
    parser = _PARSERS[kind](option)
    return flags.Flag(parser, _Text(), field.name, default, option.help)
