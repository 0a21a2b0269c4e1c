"""What numbers given from outside must be: one rule for every constructor."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

_MOST_NFE = 10_000


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number as Python's int, such as a number of evaluations.

    Args:
      name: of the argument, for the message.
      value: an integer of Python, NumPy or JAX.
      least: the smallest that is allowed.

    Returns:
      The number.

    Raises:
      ValueError: if it is no integer (a bool or a float is none), or smaller.
    """
    try:
        whole = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None:
        raise ValueError(f"{name} must be a whole number, got {value!r:.60}")
    if whole < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r:.60}")
    return whole


def nfe(value: Any) -> int:
    """A number of evaluations, of which a solver holds nfe^2 numbers.

    Args:
      value: an integer of Python, NumPy or JAX.

    Returns:
      The number.

    Raises:
      ValueError: if it is no integer, below 1 or above 10,000.
    """
    whole = count("nfe", value)
    if whole > _MOST_NFE:
        raise ValueError(
            f"nfe must be at most {_MOST_NFE}, got {whole}; b holds nfe^2 numbers"
        )
    return whole


def finite(name: str, value: Any, expected: str = "a finite number") -> float:
    """A real, finite number as Python's float.

    Args:
      name: of the argument, for the message.
      value: a number of Python, NumPy or JAX, or an array of shape ().
      expected: what the message says that it must be.

    Returns:
      The number.

    Raises:
      ValueError: if it is no number, infinite or nan.
    """
    real = np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iuf"
    if not real or not math.isfinite(value):
        raise ValueError(f"{name} must be {expected}, got {value!r:.60}")
    return float(value)


def positive(name: str, value: Any) -> float:
    """A finite number above 0 as Python's float.

    Args:
      name: of the argument, for the message.
      value: a number of Python, NumPy or JAX, or an array of shape ().

    Returns:
      The number.

    Raises:
      ValueError: if it is none.
    """
    number = finite(name, value, "positive and finite")
    if number <= 0:
        raise ValueError(f"{name} must be positive and finite, got {value!r:.60}")
    return number


def fraction(name: str, value: Any) -> float:
    """A number in [0, 1] as Python's float, such as a time.

    Args:
      name: of the argument, for the message.
      value: a number of Python, NumPy or JAX, or an array of shape ().

    Returns:
      The number.

    Raises:
      ValueError: if it is none.
    """
    number = finite(name, value, "a number in [0, 1]")
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r:.60}")
    return number


def numbers(name: str, values: Any) -> np.ndarray:
    """Real numbers as NumPy's float64.

    Args:
      name: of the argument, for the message.
      values: an array of NumPy or JAX, or nested lists of numbers.

    Returns:
      The numbers, of any shape and value.

    Raises:
      ValueError: if they are no numbers, complex, or rows of different lengths.
    """
    refusal = f"{name} must be real numbers, got {values!r:.60}"
    try:
        given = np.asarray(values)
    except ValueError as error:
        raise ValueError(refusal) from error
    # Those of ml_dtypes, such as bfloat16, have kind V.
    if given.dtype.kind not in "biufV":
        raise ValueError(refusal)
    return given.astype(np.float64, copy=False)
