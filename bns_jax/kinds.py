"""What an object given from outside must be: one message for every kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def check(
    expected: str, value: Any, kinds: Any, name: str = "", optional: bool = False
) -> None:
    """Refuses an object of another kind before something is asked of it.

    Args:
      expected: what it must be, as "a scheduler, such as schedulers.cond_ot()".
      value: what came.
      kinds: a class, or several.
      name: of the argument, where `expected` does not say it.
      optional: whether None will do.

    Raises:
      ValueError: if it is no instance.
    """
    if not (isinstance(value, kinds) or (optional and value is None)):
        raise ValueError(f"{_of(name)}expected {expected}, got {value!r:.60}")


def check_function(name: str, value: Any, called_as: str) -> None:
    """Refuses what cannot be called.

    Args:
      name: of the argument.
      value: what came.
      called_as: how it will be called.

    Raises:
      ValueError: if it cannot be.
    """
    if not callable(value):
        raise ValueError(
            f"{name} must be a function, called as {called_as}, got {value!r:.60}"
        )


def check_names(name: str, value: Any) -> None:
    """Refuses what is no collection of texts, such as one text alone.

    Args:
      name: of the argument.
      value: what came.

    Raises:
      ValueError: naming what came.
    """
    several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    if not several or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{name} must be a list of names, got {value!r:.60}")


def _of(name: str) -> str:
    return f"{name}: " if name else ""
