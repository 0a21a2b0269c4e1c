"""Grids laid in the noise-to-signal ratio sigma / alpha of a scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np

from bns_jax import scalars
from bns_jax.grids.base import Grid
from bns_jax.schedulers import DiscreteVP, Scheduler, check_scheduler
from bns_jax.typing import Array

Final: TypeAlias = Literal["zero", "sigma_min", "repeat"]
"""Where the last step leads: from sigma_min to clean data ("zero"), to sigma_min
("sigma_min"), or from sigma_min to itself ("repeat")."""

_ROUNDING = 1e-4
"""Published tables are rounded: so far above the largest level counts as the largest,
relative to it."""

_LARGEST_LOG_SNR = -np.log(1e-4)
_EDM_SIGMA_MIN, _EDM_SIGMA_MAX = 0.002, 80.0


def log_snr(scheduler: Scheduler, margin: float = 1e-3) -> Grid:
    """Equal steps in log-SNR.

    log-SNR is infinite at the ends of most schedulers, so the steps are laid between
    `margin` and 1 - `margin`, or the noise-to-signal ratio of 1e-4 where that is met
    before, and the two end points then moved to 0 and 1.

    Args:
      scheduler: whose log-SNR.
      margin: in (0, 1/2).

    Returns:
      The grid, from 0 to 1.

    Raises:
      ValueError: unless it is.
    """
    check_scheduler(scheduler)
    margin = scalars.positive("margin", margin)
    if not margin < 0.5:
        raise ValueError(f"margin must lie in (0, 1/2), got {margin}")
    first = scheduler.log_snr(margin)
    last = min(scheduler.log_snr(1.0 - margin), _LARGEST_LOG_SNR)

    def grid(steps: int) -> np.ndarray:
        times = scheduler.log_snr_inverse(np.linspace(first, last, steps + 1))
        return np.concatenate([[0.0], times[1:-1], [1.0]])

    return grid


def karras(
    scheduler: Scheduler,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float = 7.0,
    *,
    final: Final = "zero",
) -> Grid:
    """The grid of EDM (Karras et al., 2022, eq. 5), as times of `scheduler`.

    Noise-to-signal ratios fall from sigma_max to sigma_min, equally spaced in their
    rho-th root; a last step leads to 1. Where sigma_max is less than the scheduler's
    own maximum the first time is not 0: a ratio of 80 is reached at t = 0.0123 on the
    cond-OT path.

    Args:
      scheduler: whose ratios, and whose times.
      sigma_min: the smallest above 0; if left out 0.002, or the level of step 0 of a
        model trained on discrete steps where that is larger.
      sigma_max: the largest; the scheduler's own if left out, 80 where that is
        infinite.
      rho: 7 as published.
      final: where the last step leads, "zero", "sigma_min" or "repeat"; diffusers'
        final_sigmas_type of "zero" and "sigma_min" are "zero" and "repeat" where
        sigma_min is its schedule's own.

    Returns:
      The grid, from the time of sigma_max on.

    Raises:
      ValueError: unless rho and the levels are positive, finite numbers,
        sigma_min < sigma_max, and the scheduler has as much noise as sigma_max.
    """
    check_scheduler(scheduler)
    low, high = level_range(scheduler, sigma_min, sigma_max)
    rho = scalars.positive("rho", rho)

    def levels(count: int) -> np.ndarray:
        roots = np.linspace(high ** (1 / rho), low ** (1 / rho), count)
        return np.append(high, roots[1:] ** rho)

    return _down(scheduler, levels, final)


def exponential(
    scheduler: Scheduler,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    *,
    final: Final = "zero",
) -> Grid:
    """Noise-to-signal ratios that fall by the same factor: equal steps in log-SNR.

    Args:
      scheduler: whose ratios, and whose times.
      sigma_min: as of `karras`.
      sigma_max: as of `karras`.
      final: as of `karras`.

    Returns:
      The grid, as `karras`.

    Raises:
      ValueError: as `karras`.
    """
    check_scheduler(scheduler)
    low, high = level_range(scheduler, sigma_min, sigma_max)
    return _down(scheduler, lambda count: np.geomspace(high, low, count), final)


def beta(
    scheduler: Scheduler,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    a: float = 0.6,
    b: float = 0.6,
    *,
    final: Final = "zero",
) -> Grid:
    """Noise-to-signal ratios at equal quantiles of a beta distribution.

    Lee et al., 2024, arXiv:2407.12173, laid as in diffusers over the ratios.

    Args:
      scheduler: whose ratios, and whose times.
      sigma_min: as of `karras`.
      sigma_max: as of `karras`.
      a: of the distribution; below 1 the levels gather at sigma_max ..
      b: .. and below 1 at sigma_min.
      final: as of `karras`.

    Returns:
      The grid, as `karras`.

    Raises:
      ValueError: as `karras`, and unless a and b are positive and finite.
    """
    check_scheduler(scheduler)
    low, high = level_range(scheduler, sigma_min, sigma_max)
    a, b = scalars.positive("a", a), scalars.positive("b", b)

    def levels(count: int) -> np.ndarray:
        # Takes a while to load, and is needed here alone.
        from scipy import special

        quantiles = special.betaincinv(a, b, np.linspace(1.0, 0.0, count))
        return low + quantiles * (high - low)

    return _down(scheduler, levels, final)


def at_levels(scheduler: Scheduler, levels: Array) -> np.ndarray:
    """The times at which sigma / alpha has these values.

    Args:
      scheduler: whose ratio.
      levels: (n,), at least 0.

    Returns:
      (n,), float64 in [0, 1].
    """
    check_scheduler(scheduler)
    with np.errstate(divide="ignore"):
        snr = 1.0 / scalars.numbers("levels", levels)
    return np.asarray(scheduler.snr_inverse(snr)).clip(0.0, 1.0)


def largest_level(scheduler: Scheduler) -> float:
    """The ratio sigma / alpha at t = 0.

    Args:
      scheduler: whose ratio.

    Returns:
      The ratio; infinite where alpha is 0 there.
    """
    return float(np.exp(-scheduler.log_snr(0.0)))


def check_largest(scheduler: Scheduler, name: str, level: float) -> None:
    """Refuses a level that the scheduler does not reach.

    Args:
      scheduler: whose ratios are levels.
      name: of the argument, for the message.
      level: sigma / alpha.

    Raises:
      ValueError: if it is above the largest by more than tables are rounded.
    """
    largest = largest_level(scheduler)
    if level > largest * (1 + _ROUNDING):
        raise ValueError(
            f"{name} must lie in [0, {largest:g}], the noise-to-signal ratios of the "
            f"scheduler, got {level:g}"
        )


def level_range(
    scheduler: Scheduler, sigma_min: float | None, sigma_max: float | None
) -> tuple[float, float]:
    """The smallest and largest level of a grid, checked.

    Args:
      scheduler: whose ratios they are.
      sigma_min: the smallest; as of `karras` if left out.
      sigma_max: the largest; the scheduler's own if left out, 80 where that is
        infinite.

    Returns:
      Both, sigma_min first.

    Raises:
      ValueError: unless 0 < sigma_min < sigma_max are finite and the scheduler reaches
        sigma_max.
    """
    if sigma_min is None:
        low = _EDM_SIGMA_MIN
        if isinstance(scheduler, DiscreteVP):
            step_0 = 1.0 - 1.0 / (len(scheduler.log_alphas) - 1)
            low = max(low, float(1.0 / scheduler.snr(step_0)))
    else:
        low = scalars.positive("sigma_min", sigma_min)
    if sigma_max is None:
        own = largest_level(scheduler)
        high = own if np.isfinite(own) else _EDM_SIGMA_MAX
    else:
        high = scalars.positive("sigma_max", sigma_max)
    if not low < high:
        raise ValueError(
            f"expected 0 < sigma_min < sigma_max, got {low:g} and {high:g}"
        )
    check_largest(scheduler, "sigma_max", high)
    return low, high


def _down(
    scheduler: Scheduler, levels: Callable[[int], np.ndarray], final: Final
) -> Grid:
    """The grid of levels(count), count decreasing levels, and its last step."""
    if final not in ("zero", "sigma_min", "repeat"):
        raise ValueError(
            f'final must be "zero", "sigma_min" or "repeat", got {final!r:.60}'
        )

    def grid(steps: int) -> np.ndarray:
        if final == "sigma_min":
            return at_levels(scheduler, levels(steps + 1))
        times = at_levels(scheduler, levels(steps))
        return np.append(times, 1.0 if final == "zero" else times[-1])

    return grid
