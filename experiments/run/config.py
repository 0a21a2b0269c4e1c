"""A configuration: one value that a program runs on, and that flags can fill.

It is a frozen dataclass whose fields are options. `cli.launch` makes a flag of each,
so that a new flag is one field; other Python code builds the value itself.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Option:
    """What a field of a configuration is, besides its type and default.

    Attributes:
      help: a sentence for --help.
      choices: the values there are; any if empty.
      least: the least value of a number.
      positive: whether a number must be above 0.
      shapes: whether it shapes what a run writes, and so belongs to `run.flags`.
      free: whether it may change between calls on one workdir all the same.
    """

    help: str
    choices: Sequence[str] = ()
    least: float | None = None
    positive: bool = False
    shapes: bool = True
    free: bool = False

    def check(self, name: str, value: Any) -> None:
        """Refuses a value that cannot be.

        Raises:
          ValueError: naming the option, what is expected and what came.
        """
        many = value if isinstance(value, tuple) else (value,)
        if self.choices and not set(many) <= set(self.choices):
            expected = f"one of {', '.join(self.choices)}"
        elif self.positive and not value > 0:
            expected = "positive"
        elif self.least is not None and value is not None and not value >= self.least:
            expected = f"at least {self.least:g}"
        else:
            return
        raise ValueError(f"--{name} must be {expected}, got {text(value)}")


def option(default: Any, help: str, **settings: Any) -> Any:
    """A field of a configuration.

    Args:
      default: its value if nothing is said. A tuple is written with commas.
      help: a sentence for --help.
      **settings: the other attributes of `Option`.
    """
    metadata = {"option": Option(help, **settings)}
    return dataclasses.field(default=default, metadata=metadata)


def changed(config: type[Config], name: str, default: Any) -> Any:
    """The option of another configuration with another default."""
    there = options(config)[name]
    return dataclasses.field(default=default, metadata={"option": there})


@dataclasses.dataclass(frozen=True)
class Config:
    """What all configurations share.

    Raises:
      ValueError: if a value cannot be; names its flag.
    """

    def __post_init__(self) -> None:
        for name, there in options(type(self)).items():
            there.check(name, getattr(self, name))

    def shaping(self, of: type[Config] | None = None) -> dict[str, str]:
        """What `run.flags` holds: name -> text of every option that shapes a run.

        Args:
          of: a configuration that this one includes; only its options then.
        """
        there = options(of or type(self))
        shaping = (name for name, option in there.items() if option.shapes)
        return {name: text(getattr(self, name)) for name in shaping}

    def free(self) -> frozenset[str]:
        """The names of options that may change between calls on one workdir."""
        there = options(type(self))
        return frozenset(name for name, option in there.items() if option.free)


def options(config: type[Config]) -> Mapping[str, Option]:
    """The options of a configuration by name, in their order."""
    return {
        field.name: field.metadata["option"] for field in dataclasses.fields(config)
    }


def json_object(argument: str) -> dict[str, Any]:
    """A JSON object; "" stands for an empty one.

    Raises:
      ValueError: if it is none.
    """
    try:
        value = json.loads(argument or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(
            f'expected a JSON object, such as {{"width": 128}}, got {argument}'
        )
    return value


def text(value: Any) -> str:
    """A value as a flag file writes it, in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


_MOST_NFE = 64


def check_nfe(config: Any) -> None:
    """Brings the option `nfe` of a configuration into ascending order, each once.

    Raises:
      ValueError: if one is out of range, or there is none.
    """
    nfe = tuple(sorted(set(config.nfe)))
    if not nfe or not 1 <= nfe[0] <= nfe[-1] <= _MOST_NFE:
        raise ValueError(
            f"--nfe must be integers from 1 to {_MOST_NFE}, such as 4,6,8, got "
            f"{text(config.nfe)}"
        )
    object.__setattr__(config, "nfe", nfe)


@dataclasses.dataclass(frozen=True)
class Hosts(Config):
    """The devices and processes of a run, which shape nothing that it writes."""

    devices: int = option(
        0, "Devices to lay batches over; 0 takes all there are.", least=0, shapes=False
    )
    shard_weights: bool = option(
        False, "Lay large weights over the devices too.", shapes=False
    )
    coordinator_address: str | None = option(
        None,
        "host:port at which process 0 of several listens; not needed on a Cloud TPU.",
        shapes=False,
    )
    num_processes: int | None = option(
        None, "Number of processes of the run.", least=1, shapes=False
    )
    process_id: int | None = option(
        None, "Which of the processes this is, from 0.", least=0, shapes=False
    )
    start_timeout: int = option(
        120, "Seconds to wait for the other processes.", least=1, shapes=False
    )

    @property
    def is_small(self) -> bool:
        """Whether the network is, so that a CPU works on it as several devices."""
        return True
