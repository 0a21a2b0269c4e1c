"""What a time grid is, and those that know no scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from bns_jax import scalars
from bns_jax.typing import Array

Grid: TypeAlias = Callable[[int], np.ndarray]
"""grid(steps) -> (steps + 1,) non-decreasing times."""

GridLike: TypeAlias = Grid | Sequence[float] | Array
"""A grid, or the times themselves."""


def uniform(start: float = 0.0, end: float = 1.0) -> Grid:
    """Equal steps from `start` to `end`.

    Args:
      start: the first time.
      end: the last time.

    Returns:
      grid(steps) -> (steps + 1,) sorted times in [0, 1].

    Raises:
      ValueError: unless 0 <= start < end <= 1.
    """
    start, end = scalars.fraction("start", start), scalars.fraction("end", end)
    if not start < end:
        raise ValueError(f"expected start < end, got {start} and {end}")
    return lambda steps: np.linspace(start, end, steps + 1)


def from_times(times: Sequence[float] | Array) -> Grid:
    """The given times, as a grid for the one number of steps that fits them.

    Args:
      times: (steps + 1,), sorted, in [0, 1].

    Returns:
      The grid, which raises ValueError at any other number of steps.

    Raises:
      ValueError: if they are no numbers.
    """
    values = scalars.numbers("times", times)

    def grid(steps: int) -> np.ndarray:
        if values.shape != (steps + 1,):
            raise ValueError(
                f"a grid of {steps} steps needs {steps + 1} times, got shape "
                f"{values.shape}"
            )
        return values

    return grid


def resampled(times: Sequence[float] | Array) -> Grid:
    """A grid that is as dense everywhere as the given times, with any number of steps.

    Args:
      times: (k + 1,), sorted, of k steps, such as those of a distilled solver and 1.

    Returns:
      The grid; the given times where it has k steps.

    Raises:
      ValueError: if there are fewer than two, or they are not finite and sorted.
    """
    values = scalars.numbers("times", times)
    laid = values.ndim == 1 and len(values) > 1 and np.all(np.isfinite(values))
    if not laid or np.any(np.diff(values) < 0):
        got = f"{times!s:.60}"
        raise ValueError(f"expected two or more finite, sorted times, got {got}")

    def grid(steps: int) -> np.ndarray:
        shares = np.linspace(0.0, 1.0, len(values))
        return np.interp(np.linspace(0.0, 1.0, steps + 1), shares, values)

    return grid


def ends(grid: GridLike | None) -> tuple[float, float]:
    """The first and the last time of a grid, whatever its number of steps.

    Args:
      grid: a grid or its times; uniform if None.

    Returns:
      Both, in [0, 1].

    Raises:
      ValueError: as `times`.
    """
    if grid is None:
        return 0.0, 1.0
    laid = times(grid, 1 if callable(grid) else max(np.size(grid) - 1, 1))
    return float(laid[0]), float(laid[-1])


def times(grid: GridLike | None, steps: int) -> np.ndarray:
    """Lays a grid and checks it.

    Args:
      grid: a grid or its times; uniform if None.
      steps: at least 1.

    Returns:
      (steps + 1,), float64.

    Raises:
      ValueError: if it is not of steps + 1 finite, sorted times in [0, 1], or there is
        no step.
    """
    steps = scalars.count("the number of steps of a grid", steps)
    if grid is None:
        grid = uniform()
    laid = scalars.numbers(
        "times", (grid if callable(grid) else from_times(grid))(steps)
    )
    if laid.shape != (steps + 1,) or not np.all(np.isfinite(laid)):
        raise ValueError(
            f"a grid of {steps} steps needs {steps + 1} finite times, got {laid}"
        )
    if np.any(np.diff(laid) < 0) or laid[0] < 0 or laid[-1] > 1:
        raise ValueError(f"a grid must be sorted and lie in [0, 1], got {laid}")
    return laid
