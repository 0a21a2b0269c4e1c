"""What is kept on disk says what it is of: names, checksums, and a probe value.

An identity is a flat record of JSON values. Functions enter by their names, seen
through wrappers, by the checksum of their arrays, and by a probe: what they answer on
one sample, which differs where names and arrays do not show it, as with a function
that closes over something. Two identities are of the same thing if all entries agree,
probes within rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

from bns_jax.held import Holding, UnboundMethod
from bns_jax.pytree import Partitioned, as_pytree, checksum, on_host

Probe: TypeAlias = list[float | None]
"""A few numbers that tell one function from another."""

PROBE = "probe"
"""How the names of entries end that are compared within rounding."""

_ROUNDING = 1e-3
_DIGITS = 6
_NUMBERS = 3


def describe(value: Any) -> str:
    """A function by its name and by those of what it is made of.

    Partial functions, methods, modules and other dataclasses are seen through.

    Args:
      value: a function, or anything that it holds.

    Returns:
      A text that is the same in every process.
    """
    return next(shown(value) for is_kind, shown in _KINDS if is_kind(value))


def probe(*values: Any) -> Probe:
    """A few numbers that two answers agree in, within rounding, only if they agree.

    Args:
      *values: pytrees of real arrays, of which each leaf gives its mean, its root mean
        square and a projection.

    Returns:
      JSON values of 6 digits; None for what is not finite.
    """
    # What is not finite is said where the field is solved, by sample and time.
    with np.errstate(invalid="ignore", over="ignore"):
        summaries = [_summary(leaf) for leaf in jax.tree.leaves(values)]
    return [_rounded(number) for summary in summaries for number in summary]


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of what is compared exactly, 64 hexadecimal digits.

    Args:
      identity: JSON values by name; probes are left out.

    Returns:
      64 hexadecimal digits.
    """
    exact = {key: value for key, value in identity.items() if not _is_probe(key)}
    return hashlib.sha256(json.dumps(exact, sort_keys=True).encode()).hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The entries in which two identities differ, side by side as text.

    Probes are named where nothing else differs: they follow from the rest.

    Args:
      there: the identity of what was found.
      here: that of what is asked for.

    Returns:
      One line for each entry; none if they agree.
    """
    differing = [
        key
        for key in sorted({*there, *here})
        if not _agree(key, there.get(key), here.get(key))
    ]
    exact = [key for key in differing if not _is_probe(key)]
    return [
        f"{key}: there {there.get(key)!r}, here {here.get(key)!r}"
        for key in exact or differing
    ]


def check_same(
    there: Mapping[str, Any], here: Mapping[str, Any], what: str, advice: str
) -> None:
    """Checks that what was found is what is asked for.

    Args:
      there: the identity of what was found.
      here: that of what is asked for.
      what: what was found, for the message.
      advice: what the user can do.

    Raises:
      ValueError: naming every entry that differs.
    """
    if not there:
        raise ValueError(f"{what}: it does not say which, as older versions; {advice}")
    differing = differences(there, here)
    if differing:
        raise ValueError(f"{what}; {'; '.join(differing)}; {advice}")


def of_function(name: str, function: Any, answers: Probe) -> dict[str, Any]:
    """The entries of one function.

    Args:
      name: how the entries begin.
      function: a callable, a pytree or not.
      answers: its `probe`.

    Returns:
      Its description, the checksum of its arrays, and the probe.
    """
    return {
        name: describe(function),
        f"{name}_weights": checksum(as_pytree(function)),
        f"{name}_{PROBE}": answers,
    }


def _is_probe(key: str) -> bool:
    return key.endswith(PROBE)


def _agree(key: str, there: Any, here: Any) -> bool:
    if not (_is_probe(key) and isinstance(there, list) and isinstance(here, list)):
        return there == here
    if len(there) != len(here) or [v is None for v in there] != [
        v is None for v in here
    ]:
        return False
    # Each summary within its own size: a leaf of small numbers counts as any other.
    starts = range(0, len(there), _NUMBERS)
    return all(
        _agree_within_size(there[i : i + _NUMBERS], here[i : i + _NUMBERS])
        for i in starts
    )


def _agree_within_size(there: list[Any], here: list[Any]) -> bool:
    known = [(a, b) for a, b in zip(there, here, strict=True) if a is not None]
    size = max((max(abs(a), abs(b)) for a, b in known), default=0.0)
    return all(abs(a - b) <= _ROUNDING * size for a, b in known)


def _summary(leaf: Any) -> list[float]:
    x = np.ravel(on_host(leaf)).astype(np.float64)
    # Its size is that of a typical entry, and it sees where the entries stand.
    projection = np.sum(x * np.cos(np.arange(x.size))) / np.sqrt(x.size)
    return [np.mean(x), np.sqrt(np.mean(x**2)), projection]


def _rounded(number: float) -> float | None:
    return float(f"{number:.{_DIGITS}g}") if np.isfinite(number) else None


def _name(thing: Any) -> str:
    return str(thing.__qualname__)


def _call(name: str, args: Iterable[Any], keywords: Mapping[str, Any]) -> str:
    shown = [describe(value) for value in args]
    shown += [f"{key}={describe(value)}" for key, value in sorted(keywords.items())]
    return f"{name}({', '.join(shown)})"


def _partial(value: functools.partial) -> str:
    return _call(describe(value.func), value.args, value.keywords)


def _method(value: types.MethodType) -> str:
    return f"{describe(value.__self__)}.{value.__name__}"


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _dataclass(value: Any) -> str:
    shown = [field.name for field in dataclasses.fields(value) if field.repr]
    fields = {name: getattr(value, name, None) for name in shown}
    return _call(_name(type(value)), (), fields)


def _function(value: Any) -> str:
    """A function or class, by its name and defaults."""
    defaults = getattr(value, "__defaults__", None) or ()
    named = getattr(value, "__kwdefaults__", None) or {}
    return _call(_name(value), defaults, named) if defaults or named else _name(value)


def _is_arrays(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    are_arrays = (isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves)
    return bool(leaves) and all(are_arrays)


def _arrays(value: Any) -> str:
    """A number as it is; of arrays how many they are: their values have a checksum."""
    leaves = jax.tree.leaves(value)
    if len(leaves) == 1 and leaves[0].ndim == 0:
        return str(leaves[0])
    return f"{len(leaves)} arrays" if len(leaves) > 1 else "array"


def _mapping(value: Mapping[Any, Any]) -> str:
    return _call("", (), {str(key): entry for key, entry in value.items()})


def _instance_of(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any], str]], ...] = (
    (_instance_of(Partitioned), lambda value: describe(value.whole)),
    (_instance_of(Holding, UnboundMethod), lambda value: describe(value.function)),
    (_instance_of(functools.partial), _partial),
    (inspect.ismethod, _method),
    (_is_dataclass, _dataclass),
    (lambda value: hasattr(value, "__qualname__"), _function),
    (_is_arrays, _arrays),
    (_instance_of(Mapping), _mapping),
    (_instance_of(list, tuple), lambda value: _call("", value, {})),
    (_instance_of(str, int, float, complex, np.generic, type(None)), repr),
    (lambda value: True, lambda value: _name(type(value))),
)
"""Which values, and how each of them is described; the first that fits counts."""
