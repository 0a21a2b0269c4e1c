"""Changes of scheduler as scale-time transformations (eq. 8, eq. 14).

Of eq. 8's forms these are the ones that stay finite at the ends, where snr is 0 or
infinite: s is the ratio of the vectors (alpha, sigma), and with
L = sigma alpha' - alpha sigma' the derivative of t is (L_bar / L) / s^2. Where no noise
is left the latter is 0 / 0 if sigma falls other than linearly: there both derivatives
have their limits, which may be 0 or infinite.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import scalars
from bns_jax.scale_time.transformation import ScaleTime
from bns_jax.schedulers import Scheduler, check_scheduler
from bns_jax.typing import Array, Time


def between(source: Scheduler, target: Scheduler) -> ScaleTime:
    """The scale-time transformation that changes `source` to `target` (eq. 8).

    Where the target is noisier than the source ever gets (VP's alpha_0 is not 0),
    t_r stays at 0. Where it is the source that gets noisier, t_0 is the time at which
    it has the noise of the target's start. t_1 = 1 always holds.

    Args:
      source: of the path that the field is of.
      target: of the path to move to.

    Returns:
      The transformation: NumPy float64 of numbers, JAX arrays of such.

    Raises:
      ValueError: if one is no scheduler.
    """
    check_scheduler(source)
    check_scheduler(target)
    lowest = float(source.log_snr(0.0))

    def through_snr(r: Time) -> Array:
        log_snr = target.log_snr(r).clip(lowest)
        return source.log_snr_inverse(log_snr).clip(0.0, 1.0)

    t = _with_derivative(through_snr, lambda r: d_t(r))

    def s(r: Time) -> Array:
        alpha, sigma = source.alpha(t(r)), source.sigma(t(r))
        aligned = alpha * target.alpha(r) + sigma * target.sigma(r)
        return aligned / (alpha**2 + sigma**2)

    def rate_t(r: Time) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return _wronskian(target, r) / _wronskian(source, t(r)) / s(r) ** 2

    def rate_s(r: Time, d_t: Callable[[Time], Array]) -> Array:
        alpha, sigma = source.alpha(t(r)), source.sigma(t(r))
        with np.errstate(invalid="ignore"):
            moved = alpha * target.d_alpha(r) + sigma * target.d_sigma(r)
            along = alpha * source.d_alpha(t(r)) + sigma * source.d_sigma(t(r))
            return (moved - s(r) * d_t(r) * along) / (alpha**2 + sigma**2)

    rate_t_at_end = _at_end(rate_t)
    rate_s_at_end = _at_end(lambda r: rate_s(r, rate_t))

    def d_t(r: Time) -> Array:
        xp = jnp if isinstance(r, jax.Array) else np
        rate = xp.where(t(r) >= 1, rate_t_at_end, rate_t(r))
        return xp.where(target.log_snr(r) < lowest, 0.0, rate)

    def d_s(r: Time) -> Array:
        xp = jnp if isinstance(r, jax.Array) else np
        return xp.where(t(r) >= 1, rate_s_at_end, rate_s(r, d_t))

    return ScaleTime(t, s, d_t, d_s)


def _with_derivative(
    function: Callable[[Time], Array], derivative: Callable[[Array], Array]
) -> Callable[[Time], Array]:
    """A function of time; autodiff of it is 0 / 0 where log-SNR is infinite."""
    differentiable = jax.custom_jvp(function)

    @differentiable.defjvp
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        return differentiable(*primals), derivative(*primals) * tangents[0]

    def call(r: Time) -> Array:
        return differentiable(r) if isinstance(r, jax.Array) else function(r)

    return call


def _at_end(rate: Callable[[Time], Array]) -> float:
    """A rate at r = 1, or its limit, where it changes as a power of 1 - r."""
    end = float(rate(1.0))
    if not np.isnan(end):
        return end
    for step in _STEPS:
        far, near = (float(rate(1.0 - distance)) for distance in (2 * step, step))
        if np.isfinite(near):
            break
    if abs(near) < max(0.99 * abs(far), _ROUNDING):
        return 0.0
    return (
        2 * near - far if abs(near) < 1.01 * abs(far) else float(np.sign(near) * np.inf)
    )


_ROUNDING = 1e-6
_STEPS = (1e-7, 1e-5, 1e-3, 1e-2, 0.05)
"""Extrapolated over, to an error of their square; from all too near t rounds to 1."""


def _wronskian(scheduler: Scheduler, t: Time) -> Array:
    """L = sigma alpha' - alpha sigma'."""
    alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
    return sigma * scheduler.d_alpha(t) - alpha * scheduler.d_sigma(t)


@dataclasses.dataclass(frozen=True)
class _Noisier(Scheduler):
    """alpha_t and sigma_0 sigma_t of a base scheduler (eq. 14)."""

    base: Scheduler
    sigma_0: float

    def alpha(self, t: Time) -> Array:
        return self.base.alpha(t)

    def sigma(self, t: Time) -> Array:
        return self.sigma_0 * self.base.sigma(t)

    def d_alpha(self, t: Time) -> Array:
        return self.base.d_alpha(t)

    def d_sigma(self, t: Time) -> Array:
        return self.sigma_0 * self.base.d_sigma(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        return self.base.log_snr_inverse(log_snr + float(np.log(self.sigma_0)))


def precondition(scheduler: Scheduler, sigma_0: float) -> ScaleTime:
    """Eq. 14: the change to (alpha_t, sigma_0 sigma_t), a wider source.

    Args:
      scheduler: of the path that the field is of.
      sigma_0: by how much noise is wider.

    Returns:
      The transformation.

    Raises:
      ValueError: unless sigma_0 is positive and finite.
    """
    check_scheduler(scheduler)
    return between(scheduler, _Noisier(scheduler, scalars.positive("sigma_0", sigma_0)))
