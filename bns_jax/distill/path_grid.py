"""Time grids laid by where the true trajectories bend."""

from __future__ import annotations

import jax
import numpy as np

from bns_jax import scalars
from bns_jax.grids import Grid, resampled
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs

_EVEN_SHARE = 0.5
POWERS = (0.0, 0.5, 1.0)
"""Of the grids that `path_grids` gives."""


def path_grids(pairs: Pairs) -> list[Grid]:
    """Equal steps, and two grids that follow the bends of the true trajectories.

    Args:
      pairs: with at least 3 points of the trajectory.

    Returns:
      A grid for each of `POWERS`.

    Raises:
      ValueError: if there are fewer points.
    """
    return [path_grid(pairs, power) for power in POWERS]


def grids_after(pairs: Pairs, smaller: NSParams | None) -> list[Grid]:
    """Those of `path_grids`, and one as dense as the times of a smaller solver.

    Args:
      pairs: with at least 3 points of the trajectory.
      smaller: a solver that was found for fewer evaluations; None if there is none.

    Returns:
      The grids, from steps to times.

    Raises:
      ValueError: if there are fewer points.
    """
    laid = path_grids(pairs)
    if smaller is not None:
        laid.append(resampled(np.append(smaller.times, 1.0)))
    return laid


def path_grid(pairs: Pairs, power: float) -> Grid:
    """Steps that each hold the same amount of bending.

    The density of the grid is ||x''(t)||^power, the root mean square over all pairs,
    over its mean, plus a share of equal steps: equidistribution, as it is known from
    boundary-value solvers.

    Args:
      pairs: with at least 3 points of the trajectory.
      power: 0 gives equal steps; the larger, the more the steps gather at the bends.

    Returns:
      A function of a number of steps to the steps + 1 times, NumPy float64.

    Raises:
      ValueError: if there are fewer points or power is negative.
    """
    times, power = np.asarray(pairs.times, np.float64), scalars.finite("power", power)
    if not power >= 0:
        raise ValueError(f"power must not be negative, got {power}")
    if len(times) < 3:
        raise ValueError(f"expected at least 3 points of the path, got {len(times)}")
    bend, middle = _second_derivative(times, pairs)
    fine = np.linspace(times[0], times[-1], 20 * len(times))
    density = np.interp(fine, middle, bend**power)
    density = density / max(np.mean(density), np.finfo(float).tiny) + _EVEN_SHARE
    held = np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(fine))
    held = np.concatenate([[0.0], held]) / held[-1]
    return lambda steps: np.interp(np.linspace(0.0, 1.0, steps + 1), held, fine)


def _second_derivative(
    times: np.ndarray, pairs: Pairs
) -> tuple[np.ndarray, np.ndarray]:
    """The root mean square of x'' over all pairs, and the times it is at."""
    middles = (times[1:] + times[:-1]) / 2
    squares, entries = np.zeros(len(times) - 2), 0
    for leaf in jax.tree.leaves(pairs.path):
        x = np.asarray(leaf, np.float64).reshape(len(times), -1)
        velocity = np.diff(x, axis=0) / np.diff(times)[:, None]
        bend = np.diff(velocity, axis=0) / np.diff(middles)[:, None]
        squares, entries = squares + np.sum(bend**2, axis=1), entries + bend.shape[1]
    return np.sqrt(squares / entries), (middles[1:] + middles[:-1]) / 2
