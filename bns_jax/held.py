"""Callables whose arrays jit cannot see, compared by these arrays too.

A function is one value to `jax.jit`, whatever it closes over. Where an array or a
number that it holds was exchanged since, as training in place does, or a cell of a
notebook that is run again, the compiled program would answer for the old one.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from types import CodeType, ModuleType
from typing import Any

import jax
import numpy as np

_PLAIN = bool | int | float | complex | str
_LIBRARIES = {"bns_jax", "builtins", "equinox", "flax", "haiku", "jax", "jaxlib"}
_LIBRARIES |= {"numpy", "optax", "torch"}


@dataclasses.dataclass(frozen=True, eq=False)
class Holding:
    """A function and what it held when it was looked at; equal only if both are.

    Attributes:
      function: the callable itself.
      held: arrays, by identity, and numbers, of closures, attributes and global names.
    """

    function: Any
    held: tuple[Any, ...] = dataclasses.field(repr=False)

    @property
    def __wrapped__(self) -> Any:
        return self.function

    def __call__(self, *args: Any) -> Any:
        """Calls the function.

        Args:
          *args: of the function.

        Returns:
          What it returns.
        """
        return self.function(*args)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Holding)
            and self.function == other.function
            and len(self.held) == len(other.held)
            and all(map(_same, self.held, other.held))
        )

    def __hash__(self) -> int:
        return hash(self.function)


@dataclasses.dataclass(frozen=True)
class UnboundMethod:
    """A method whose owner is the first argument.

    Attributes:
      function: function(owner, *args).
    """

    function: Any

    def __call__(self, owner: Any, *args: Any) -> Any:
        """Calls the method of an owner.

        Args:
          owner: what the method is of; a `Partitioned` is made whole.
          *args: of the method.

        Returns:
          What it returns.
        """
        return self.function(getattr(owner, "whole", owner), *args)


def as_it_is(function: Any) -> Any:
    """The function, together with what it holds now if there is anything.

    Args:
      function: a callable that is no pytree; anything else comes back as it is.

    Returns:
      A `Holding`, or the function itself.
    """
    if not callable(function):
        return function
    held = tuple(_held(function, set()))
    return Holding(function, held) if held else function


def of_library(value: Any) -> bool:
    """Whether a function, a class or an object is of a library, not of the user.

    Args:
      value: anything.

    Returns:
      True by the name of the module that it, or its class, is of.
    """
    module = getattr(value, "__module__", None) or type(value).__module__
    return module.partition(".")[0] in _LIBRARIES


def _held(function: Any, seen: set[int]) -> list[Any]:
    """Arrays and numbers in closures, attributes, and global names of its module."""
    if id(function) in seen:
        return []
    seen.add(id(function))
    own = [] if inspect.isroutine(function) else _attributes(function)
    within = (*_cells(function), *_globals(function), *own)
    return [leaf for value in within for leaf in _leaves(value, seen)]


def _leaves(value: Any, seen: set[int]) -> list[Any]:
    found: list[Any] = []
    # Numbers in a list are no settings: a function may note its calls in one.
    numbers = not isinstance(value, list)
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, jax.Array | np.ndarray):
            found += [] if isinstance(leaf, jax.core.Tracer) else [leaf]
        elif isinstance(leaf, _PLAIN):
            found += [leaf] if numbers else []
        elif inspect.ismethod(leaf):
            found += _leaves(leaf.__self__, seen)
        elif inspect.isfunction(leaf) or _has_attributes(leaf):
            found += _held(leaf, seen)
    return found


def _has_attributes(value: Any) -> bool:
    if isinstance(value, functools.partial):
        return True
    is_object = hasattr(value, "__dict__") and not isinstance(value, type | ModuleType)
    return is_object and not of_library(type(value))


def _attributes(value: Any) -> list[Any]:
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    method = inspect.getattr_static(type(value), "__call__", None)
    return [method, *getattr(value, "__dict__", {}).values()]


def _globals(function: Any) -> list[Any]:
    """What the global names stand for that a user's function reads."""
    if not inspect.isfunction(function) or of_library(function):
        return []
    home = function.__globals__
    values = [home[name] for name in _names(function.__code__) if name in home]
    # Functions from elsewhere are left to whoever wrote them.
    return [value for value in values if getattr(value, "__globals__", home) is home]


@functools.cache
def _names(code: CodeType) -> tuple[str, ...]:
    """The names in a function and in those that are defined in it."""
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return (*code.co_names, *(name for part in inner for name in _names(part)))


def _cells(function: Any) -> list[Any]:
    contents = []
    for cell in getattr(function, "__closure__", None) or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # It is not filled yet.
            continue
    return contents


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    return isinstance(one, _PLAIN) and type(one) is type(other) and one == other
