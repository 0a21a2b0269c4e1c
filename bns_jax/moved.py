"""Keywords that have another place now, refused with its name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def moved(**places: str) -> Callable[[F], F]:
    """Decorates a function that had other keywords once.

    Args:
      **places: keyword -> what to write instead.

    Returns:
      The decorator; a call with one of the keywords raises TypeError.

    Raises:
      TypeError: by the decorated function, if it is called with one of them; says what
        to write.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> Any:
            old = [name for name in keywords if name in places]
            if old:
                advice = "; ".join(f"{name}= is now {places[name]}" for name in old)
                raise TypeError(f"{function.__name__}: {advice}")
            return function(*args, **keywords)

        return call  # type: ignore[return-value]

    return decorate
