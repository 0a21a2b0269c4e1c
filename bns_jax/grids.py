"""Time grids: functions from a number of steps to steps + 1 sorted times in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from bns_jax.schedulers import Scheduler
from bns_jax.typing import Array

Grid: TypeAlias = Callable[[int], np.ndarray]
"""grid(steps) -> (steps + 1,) non-decreasing times."""

GridLike: TypeAlias = Grid | Sequence[float] | Array
"""A grid, or the times themselves."""


def uniform(start: float = 0.0, end: float = 1.0) -> Grid:
    """Equal steps from `start` to `end`."""
    return lambda steps: np.linspace(start, end, steps + 1)


def log_snr(scheduler: Scheduler, margin: float = 1e-3) -> Grid:
    """Equal steps in log-SNR.

    log-SNR is infinite at the ends of most schedulers, so the steps are laid between
    `margin` and 1 - `margin`, and the two end points then moved to 0 and 1.

    Args:
      scheduler: whose log-SNR.
      margin: in (0, 1/2).
    """
    if not 0 < margin < 0.5:
        raise ValueError(f"margin must lie in (0, 1/2), got {margin}")
    first, last = scheduler.log_snr(margin), scheduler.log_snr(1.0 - margin)

    def grid(steps: int) -> np.ndarray:
        times = scheduler.log_snr_inverse(np.linspace(first, last, steps + 1))
        return np.concatenate([[0.0], times[1:-1], [1.0]])

    return grid


def karras(
    scheduler: Scheduler,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
) -> Grid:
    """The grid of EDM (Karras et al., 2022, eq. 5), as times of `scheduler`.

    Noise-to-signal ratios fall from sigma_max to sigma_min, equally spaced in their
    rho-th root; a last step leads to 1. The first time is not 0: a ratio of 80 is
    reached at t = 0.0123 on the cond-OT path.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"expected 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}"
        )

    def grid(steps: int) -> np.ndarray:
        roots = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), steps)
        return np.append(scheduler.snr_inverse(roots**-rho), 1.0)

    return grid


def from_times(times: Sequence[float] | Array) -> Grid:
    """The given times, as a grid for the one number of steps that fits them."""
    values = np.asarray(times, np.float64)

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
    """
    values = np.asarray(times, np.float64)

    def grid(steps: int) -> np.ndarray:
        shares = np.linspace(0.0, 1.0, len(values))
        return np.interp(np.linspace(0.0, 1.0, steps + 1), shares, values)

    return grid


def ends(grid: GridLike | None) -> tuple[float, float]:
    """The first and the last time of a grid, whatever its number of steps."""
    if grid is None:
        return 0.0, 1.0
    laid = times(grid, 1 if callable(grid) else len(grid) - 1)
    return float(laid[0]), float(laid[-1])


def times(grid: GridLike | None, steps: int) -> np.ndarray:
    """Lays a grid, uniform if left out, and checks it.

    Raises:
      ValueError: if it is not of steps + 1 finite, sorted times in [0, 1], or there is
        no step.
    """
    if steps < 1:
        raise ValueError(f"a grid needs at least 1 step, got {steps}")
    if grid is None:
        grid = uniform()
    laid = np.asarray((grid if callable(grid) else from_times(grid))(steps), np.float64)
    if laid.shape != (steps + 1,) or not np.all(np.isfinite(laid)):
        raise ValueError(
            f"a grid of {steps} steps needs {steps + 1} finite times, got {laid}"
        )
    if np.any(np.diff(laid) < 0) or laid[0] < 0 or laid[-1] > 1:
        raise ValueError(f"a grid must be sorted and lie in [0, 1], got {laid}")
    return laid
