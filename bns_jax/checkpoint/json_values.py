"""JSON values beside a state, and the floats that JSON lacks: nan, inf and -inf.

A run's history holds nan where there is no loss yet. Strict JSON has no such number, so
null stands in its place, and a list tells where and which it was.
"""

from __future__ import annotations

import functools
import json
import math
import operator
from typing import Any

_VALUES, _NONFINITE = "metadata", "nonfinite"


def encode(metadata: Any) -> dict[str, Any]:
    """Metadata as entries of strict JSON.

    Args:
      metadata: JSON values; floats may be nan or infinite.

    Returns:
      "metadata", the values with None for what is not finite, and "nonfinite", a list
      of [path, number]: the keys and indices that lead to one, and its name.

    Raises:
      ValueError: if something is no JSON value.
    """
    try:
        values = json.loads(json.dumps(metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"metadata must be JSON values: {error}") from error
    nonfinite: list[Any] = []
    finite = _finite(values, [], nonfinite)
    return {_VALUES: finite, _NONFINITE: nonfinite}


def decode(entries: dict[str, Any]) -> Any:
    """The inverse of `encode`.

    Args:
      entries: what it gave, read from JSON; steps of older versions have no list, and
        the names NaN and Infinity in their values.

    Returns:
      The metadata.
    """
    root: Any = [entries[_VALUES]]
    for path, number in entries.get(_NONFINITE, []):
        # A bare number has no path: it stands in the root itself.
        way = [0, *path]
        functools.reduce(operator.getitem, way[:-1], root)[way[-1]] = float(number)
    return root[0]


def _finite(value: Any, path: list[str | int], nonfinite: list[Any]) -> Any:
    """The value without non-finite floats, which are added to the list."""
    if isinstance(value, dict):
        return {k: _finite(v, [*path, k], nonfinite) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v, [*path, i], nonfinite) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append([path, str(value)])
        return None
    return value
