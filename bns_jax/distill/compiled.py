"""Compiled functions that later calls find again: a second equal search compiles none.

A compiled program holds what its function answered while it was traced. Of a function
of the user that may be another the next time: it reads a global name or an attribute
that was changed in between. So only such functions are shared whose parts all come from
libraries, which change nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax

from bns_jax.held import of_library

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_KEPT = 64
"""Programs; the one that was not called for longest makes room."""


def jitted(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit(function, **options)`, the same one for equal functions.

    Args:
      function: shared with later calls if it `is_constant`; best a frozen dataclass
        with the method `__call__`, since these are equal where their fields are.
      **options: of `jax.jit`, hashable.

    Returns:
      The jitted function.
    """
    if is_constant(function):
        return _shared(function, **options)

    # JAX finds what it traced by the function, so that it must be another one.
    def anew(*args: Any) -> Any:
        return function(*args)

    anew.__name__ = getattr(function, "__name__", "anew")
    return jax.jit(anew, **options)


@functools.lru_cache(_KEPT)
def _shared(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return jax.jit(function, **options)


def is_constant(value: Any) -> bool:
    """Whether a function answers the same for ever, as far as can be seen.

    Args:
      value: a function, or anything that it holds.

    Returns:
      True for functions and frozen dataclasses of libraries that hold nothing but
      such and plain numbers and texts.
    """
    seen, left = set(), [value]
    while left:
        if id(part := left.pop()) not in seen:
            seen.add(id(part))
            held = _held(part)
            if held is None:
                return False
            left += held
    return True


def _held(value: Any) -> list[Any] | None:
    """What it holds; None for what may change."""
    if isinstance(value, _PLAIN):
        return []
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, tuple):
        return [*value]
    if not of_library(value):
        return None
    if inspect.isroutine(value):
        return _of_routine(value)
    if hasattr(value, "__wrapped__"):
        return [value.__wrapped__]
    return [*vars(value).values()] if _is_frozen(value) else None


def _of_routine(value: Any) -> list[Any] | None:
    """The owner of a method, and what a closure closes over."""
    owner = [value.__self__] if inspect.ismethod(value) else []
    try:
        cells = getattr(value, "__closure__", None) or ()
        return owner + [cell.cell_contents for cell in cells]
    except ValueError:  # One is filled later.
        return None


def _is_frozen(value: Any) -> bool:
    parameters = getattr(type(value), "__dataclass_params__", None)
    return parameters is not None and parameters.frozen
