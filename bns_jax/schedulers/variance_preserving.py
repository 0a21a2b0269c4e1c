"""Schedulers of diffusion models, alpha_t^2 + sigma_t^2 = 1."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np

from bns_jax.schedulers.base import Scheduler, with_namespace
from bns_jax.typing import Array, Time


class _VariancePreserving(Scheduler):
    """alpha_t^2 + sigma_t^2 = 1, given by log alpha_t."""

    @abc.abstractmethod
    def log_alpha(self, t: Time) -> Array:
        """log(alpha_t)."""

    @abc.abstractmethod
    def d_log_alpha(self, t: Time) -> Array:
        """The time derivative of log(alpha_t)."""

    @abc.abstractmethod
    def log_alpha_inverse(self, log_alpha: Time) -> Array:
        """The time at which log(alpha_t) has the given value."""

    def alpha(self, t: Time) -> Array:
        """exp(log_alpha)."""
        log_alpha = self.log_alpha(t)
        return with_namespace(log_alpha)[0].exp(log_alpha)

    def sigma(self, t: Time) -> Array:
        """sqrt(1 - alpha_t^2), without cancellation near t = 1."""
        log_alpha = self.log_alpha(t)
        xp, _ = with_namespace(log_alpha)
        # 0 - y and not -y, which would be -0 at t = 1 and turn snr into -inf.
        return xp.sqrt(0.0 - xp.expm1(2.0 * log_alpha))

    def d_alpha(self, t: Time) -> Array:
        """alpha_t (log alpha_t)'."""
        return self.alpha(t) * self.d_log_alpha(t)

    def d_sigma(self, t: Time) -> Array:
        """-alpha_t alpha_t' / sigma_t; -inf at t = 1."""
        with np.errstate(divide="ignore"):
            return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """Through log alpha_t = -log(1 + exp(-2 log_snr)) / 2."""
        xp, log_snr = with_namespace(log_snr)
        return self.log_alpha_inverse(-0.5 * xp.logaddexp(0.0, -2.0 * log_snr))


@dataclasses.dataclass(frozen=True)
class VP(_VariancePreserving):
    """The variance-preserving scheduler of eq. 60, with b = beta_min, B = beta_max.

    alpha_0 is not 0 (0.0066 at the defaults), and sigma_t' diverges at t = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError(
                "expected 0 < beta_min < beta_max, got "
                f"beta_min={self.beta_min}, beta_max={self.beta_max}"
            )

    def log_alpha(self, t: Time) -> Array:
        """-s^2 (B - b) / 4 - s b / 2 with s = 1 - t."""
        s = 1.0 - with_namespace(t)[1]
        b, B = self.beta_min, self.beta_max
        return -0.25 * s**2 * (B - b) - 0.5 * s * b

    def d_log_alpha(self, t: Time) -> Array:
        """The slope s (B - b) / 2 + b / 2."""
        s = 1.0 - with_namespace(t)[1]
        b, B = self.beta_min, self.beta_max
        return 0.5 * s * (B - b) + 0.5 * b

    def log_alpha_inverse(self, log_alpha: Time) -> Array:
        """The root s >= 0 of the quadratic, in the form without cancellation."""
        xp, log_alpha = with_namespace(log_alpha)
        b, B = self.beta_min, self.beta_max
        root = xp.sqrt(0.25 * b**2 - (B - b) * log_alpha)
        return 1.0 + 2.0 * log_alpha / (0.5 * b + root)


@dataclasses.dataclass(frozen=True)
class DiscreteVP(_VariancePreserving):
    """A discrete-time diffusion model's schedule, log alpha_t interpolated linearly.

    Step k = T - 1 (the noisiest) sits at t = 0, step k at t = 1 - (k + 1) / T, and
    clean data (alpha = 1) at t = 1.

    Attributes:
      log_alphas: log alpha at t = 0, 1/T, ..., 1, increasing, the last one 0.
    """

    log_alphas: tuple[float, ...]

    @property
    def _times(self) -> np.ndarray:
        return np.linspace(0.0, 1.0, len(self.log_alphas))

    def log_alpha(self, t: Time) -> Array:
        """Linear between the steps."""
        xp, t = with_namespace(t)
        return xp.interp(t, *self._table(t))

    def d_log_alpha(self, t: Time) -> Array:
        """The slope of the interval that t lies in."""
        xp, t = with_namespace(t)
        times, log_alphas = self._table(t)
        slopes = xp.diff(log_alphas) / xp.diff(times)
        interval = xp.searchsorted(times, t, side="right") - 1
        return slopes[xp.clip(interval, 0, len(slopes) - 1)]

    def log_alpha_inverse(self, log_alpha: Time) -> Array:
        """Linear between the steps."""
        xp, log_alpha = with_namespace(log_alpha)
        times, log_alphas = self._table(log_alpha)
        return xp.interp(log_alpha, log_alphas, times)

    def timestep(self, t: Time) -> Array:
        """The fractional step k in [0, T - 1] that a network of T steps is given."""
        xp, t = with_namespace(t)
        steps = len(self.log_alphas) - 1
        return xp.clip(steps * (1.0 - t) - 1.0, 0.0, steps - 1.0)

    def _table(self, t: Array) -> tuple[Array, Array]:
        """Times and log alphas in the namespace and dtype of t."""
        xp, t = with_namespace(t)
        return xp.asarray(self._times, t.dtype), xp.asarray(self.log_alphas, t.dtype)


def from_alphas_cumprod(alphas_cumprod: Sequence[float] | Array) -> DiscreteVP:
    """The scheduler of a discrete-time diffusion model.

    Args:
      alphas_cumprod: the products of 1 - beta, (T,), strictly decreasing in (0, 1):
        step 0 is the cleanest, as in DDPM and its descendants. alpha_t^2 takes
        these values, so alpha is their square root.

    Returns:
      A scheduler with step k at t = 1 - (k + 1) / T and clean data at t = 1.

    Raises:
      ValueError: if the values are not such a sequence.
    """
    values = np.asarray(alphas_cumprod, np.float64)
    decreasing = values.ndim == 1 and len(values) > 0 and np.all(np.diff(values) < 0)
    if not decreasing or not (values[-1] > 0 and values[0] < 1):
        raise ValueError(
            "alphas_cumprod must be a strictly decreasing sequence inside (0, 1), got "
            f"shape {values.shape} with values from {values.max(initial=-np.inf)} to "
            f"{values.min(initial=np.inf)}"
        )
    log_alphas = [*(0.5 * np.log(values[::-1])), 0.0]
    return DiscreteVP(tuple(map(float, log_alphas)))
