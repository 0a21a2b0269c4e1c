"""Callables whose arrays jit cannot see, compared by these arrays too.

A function is one value to `jax.jit`, whatever it closes over. Where an array that it
holds was exchanged since, as training in place does, the compiled program would answer
for the old one.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import jax
import numpy as np

_PLAIN = (bool, int, float, complex, str)


@dataclasses.dataclass(frozen=True, eq=False)
class Holding:
    """A function and what it held when it was looked at; equal only if both are.

    Attributes:
      function: the callable itself.
      held: arrays, by identity, and numbers of its own attributes.
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
    """The function, together with the arrays that it holds now if there are any.

    Args:
      function: a callable that is no pytree.

    Returns:
      A `Holding`, or the function itself.
    """
    held = tuple(_held(function, set()))
    return Holding(function, held) if held else function


def _held(function: Any, seen: set[int]) -> list[Any]:
    """The concrete arrays in closures, and in attributes together with numbers."""
    if id(function) in seen:
        return []
    seen.add(id(function))
    found: list[Any] = []
    for value in _cells(function):
        found += _arrays(value, seen)
    if not inspect.isroutine(function):
        for value in getattr(function, "__dict__", {}).values():
            own = [value] if isinstance(value, _PLAIN) else _arrays(value, seen)
            found += own
    return found


def _arrays(value: Any, seen: set[int]) -> list[Any]:
    found: list[Any] = []
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, jax.Array | np.ndarray):
            found += [] if isinstance(leaf, jax.core.Tracer) else [leaf]
        elif inspect.ismethod(leaf):
            found += _arrays(leaf.__self__, seen)
        elif inspect.isfunction(leaf):
            found += _held(leaf, seen)
    return found


def _cells(function: Any) -> list[Any]:
    contents = []
    for cell in getattr(function, "__closure__", None) or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # It is not filled yet.
            continue
    return contents


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, _PLAIN):
        return type(one) is type(other) and one == other
    return one is other
