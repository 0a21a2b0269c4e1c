"""Callables whose arrays jit cannot see, compared by these arrays too.

A function is one value to `jax.jit`, whatever it closes over. Where an array or a
number that it holds was exchanged since, as training in place does, or a cell of a
notebook that is run again, the compiled program would answer for the old one.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import inspect
import sys
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

_ARRAYS = (jax.Array, np.ndarray)
_NUMBERS = (bool, int, float, complex, str, np.generic)
_LIBRARIES = {"bns_jax", "builtins", "equinox", "flax", "haiku", "jax", "jaxlib"}
_LIBRARIES |= {"numpy", "optax", "torch"}
_MOST, _DEEPEST = 10_000, 3
"""Parts that are looked at, as a function may hold a data set; modules in modules."""


@dataclasses.dataclass(frozen=True, eq=False)
class Holding:
    """A function and what it held when it was looked at; equal only if both are.

    Attributes:
      function: the callable itself.
      held: arrays, functions and classes, by identity, and numbers, of closures,
        attributes and global names.
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
        try:
            return hash(self.function)
        except TypeError:  # As of a dataclass that may change.
            return hash(type(self.function))


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
    """The function, together with what it holds now.

    Args:
      function: a callable that is no pytree; anything else comes back as it is.

    Returns:
      A `Holding`.
    """
    return Holding(function, tuple(_held(function))) if callable(function) else function


def of_library(value: Any) -> bool:
    """Whether a function, a class or an object is of a library, not of the user.

    Args:
      value: anything.

    Returns:
      True by the module that a function was written in, or that a class is of.
    """
    if isinstance(value, FunctionType):
        # Not its `__module__`, which functools.wraps copies from another.
        module = value.__globals__.get("__name__")
    else:
        module = (value if isinstance(value, type) else type(value)).__module__
    return str(module).partition(".")[0] in _LIBRARIES


def _held(function: Any) -> list[Any]:
    """What could make the function answer otherwise than it did."""
    found: list[Any] = []
    seen: dict[int, Any] = {}  # Kept, so that no other part gets an id again.
    left = _inside(function)
    for _ in range(_MOST):
        if not left:
            break
        part = left.pop()
        if isinstance(part, _NUMBERS):
            found.append(part)
        elif isinstance(part, _Itself):
            found.append(part.value)
        elif id(part) not in seen:
            seen[id(part)] = part
            found += [part] if _is_by_itself(part) else []
            left += _inside(part)
    return found


def _inside(value: Any) -> list[Any]:
    """The parts of a value that are looked at, one level down."""
    if isinstance(value, FunctionType):
        return [*_cells(value), *_globals(value)]
    if value is None or isinstance(value, (*_ARRAYS, type, ModuleType)):
        return []
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, tuple):
        return [*value]
    if isinstance(value, list):
        return [part for part in value[:_MOST] if not _is_note(part)]
    return _of_object(value)


def _is_note(part: Any) -> bool:
    """Whether a part of a list is no setting: a function may note its calls in one."""
    return isinstance(part, _NUMBERS) or any(
        isinstance(leaf, Tracer) for leaf in jax.tree.leaves(part)
    )


@dataclasses.dataclass
class _Aux:
    """What of a pytree is no child, compared by equality."""

    value: Any


@dataclasses.dataclass
class _Itself:
    """A function that is compared by identity; what it reads is not looked at."""

    value: Any


def _is_by_itself(part: Any) -> bool:
    """Whether it is compared by identity; a method is another object at each look."""
    is_kind = part is None or isinstance(part, (*_ARRAYS, np.dtype, _Aux))
    return is_kind or (callable(part) and not inspect.ismethod(part))


def _of_object(value: Any) -> list[Any]:
    if isinstance(value, _Aux):
        return []
    flat = jax.tree_util.default_registry.flatten_one_level(value)
    if flat is not None:
        # Beside the arrays what is static, as whether dropout is on.
        return [*flat[0], _Aux(flat[1])]
    if not (dataclasses.is_dataclass(value) or _is_own(type(value))):
        return []
    attributes = getattr(value, "__dict__", None)
    called = inspect.getattr_static(type(value), "__call__", None)
    return [called, attributes if isinstance(attributes, dict) else None]


def _is_own(kind: type) -> bool:
    """Whether a class is the user's, or plainly a place for settings."""
    return kind is SimpleNamespace or not _is_known(kind.__module__)


def _globals(function: FunctionType) -> list[Any]:
    """What the global names stand for that a user's function reads."""
    if of_library(function):
        return []
    home = function.__globals__
    return _read_of(home, _read(function.__code__), home)


def _read_of(
    place: dict[str, Any], names: tuple[str, ...], home: dict[str, Any], depth: int = 0
) -> list[Any]:
    """The values of some names in a module, and in the user's modules among them."""
    values: list[Any] = []
    for name in names:
        value = place.get(name)
        if isinstance(value, ModuleType):
            if depth < _DEEPEST and not _is_known(value.__name__):
                values += _read_of(vars(value), names, home, depth + 1)
        elif isinstance(value, FunctionType) and value.__globals__ is not home:
            # What it reads is left to whoever wrote it, but for what it closes over.
            values += [_Itself(value), *_cells(value)]
        else:
            values.append(value)
    return values


def _is_known(module: str) -> bool:
    """Whether a module is of the standard library, or of one that goes with JAX."""
    package = module.partition(".")[0]
    return package in _LIBRARIES or package in sys.stdlib_module_names


@functools.cache
def _read(code: CodeType) -> tuple[str, ...]:
    """The names that a function, and those defined in it, read and never write."""
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    names = (*code.co_names, *(name for part in inner for name in _read(part)))
    written = _written(code)
    return tuple(name for name in names if name not in written)


@functools.cache
def _written(code: CodeType) -> frozenset[str]:
    """The names outside of it that a function sets, as one that counts its calls."""
    return frozenset(
        step.argval
        for step in dis.get_instructions(code)
        if step.opname in ("STORE_GLOBAL", "STORE_DEREF")
    )


def _cells(function: FunctionType) -> list[Any]:
    if function.__closure__ is None:
        return []
    contents, written = [], _written(function.__code__)
    named = zip(function.__code__.co_freevars, function.__closure__, strict=True)
    for name, cell in named:
        try:
            contents += [] if name in written else [cell.cell_contents]
        except ValueError:  # It is not filled yet.
            continue
    return contents


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    try:
        return (
            isinstance(one, (*_NUMBERS, np.dtype, _Aux))
            and type(one) is type(other)
            and bool(one == other)
        )
    except Exception:  # What is static may be compared by anything.
        return False
