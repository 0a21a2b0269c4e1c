"""Schedulers of diffusion models, alpha_t^2 + sigma_t^2 = 1."""

from __future__ import annotations

import abc
import dataclasses

import numpy as np

from bns_jax import scalars
from bns_jax.schedulers.base import Scheduler, with_namespace
from bns_jax.typing import Array, Time


class VariancePreserving(Scheduler):
    """alpha_t^2 + sigma_t^2 = 1, given by log alpha_t."""

    @abc.abstractmethod
    def log_alpha(self, t: Time) -> Array:
        """log(alpha_t).

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          log(alpha_t), at most 0, of the shape of t.
        """

    @abc.abstractmethod
    def d_log_alpha(self, t: Time) -> Array:
        """The time derivative of log(alpha_t).

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          (log alpha_t)', of the shape of t.
        """

    @abc.abstractmethod
    def log_alpha_inverse(self, log_alpha: Time) -> Array:
        """The time at which log(alpha_t) has the given value.

        Args:
          log_alpha: at most 0, of any shape.

        Returns:
          The time in [0, 1], of the shape of log_alpha.
        """

    def alpha(self, t: Time) -> Array:
        """alpha_t = exp(log alpha_t).

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t, of the shape of t.
        """
        log_alpha = self.log_alpha(t)
        return with_namespace(log_alpha)[0].exp(log_alpha)

    def sigma(self, t: Time) -> Array:
        """sigma_t = sqrt(1 - alpha_t^2), without cancellation near t = 1.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t, of the shape of t.
        """
        log_alpha = self.log_alpha(t)
        xp, _ = with_namespace(log_alpha)
        # 0 - y and not -y, which would be -0 at t = 1 and turn snr into -inf.
        return xp.sqrt(0.0 - xp.expm1(2.0 * log_alpha))

    def d_alpha(self, t: Time) -> Array:
        """alpha_t' = alpha_t (log alpha_t)'.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t', of the shape of t.
        """
        return self.alpha(t) * self.d_log_alpha(t)

    def d_sigma(self, t: Time) -> Array:
        """sigma_t' = -alpha_t alpha_t' / sigma_t; -inf at t = 1.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t', of the shape of t.
        """
        with np.errstate(divide="ignore"):
            return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """The inverse through log alpha_t = -log(1 + exp(-2 log_snr)) / 2.

        Args:
          log_snr: log(alpha / sigma), of any shape.

        Returns:
          The time in [0, 1], of the shape of log_snr.
        """
        xp, log_snr = with_namespace(log_snr)
        return self.log_alpha_inverse(-0.5 * xp.logaddexp(0.0, -2.0 * log_snr))


@dataclasses.dataclass(frozen=True)
class VP(VariancePreserving):
    """The variance-preserving scheduler of eq. 60, with b = beta_min, B = beta_max.

    beta is the rate of log alpha_t^2, linear in time; b = B is a constant rate.
    alpha_0 is not 0 (0.0066 at the defaults), and sigma_t' diverges at t = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        for name in ("beta_min", "beta_max"):
            value = scalars.positive(name, getattr(self, name))
            object.__setattr__(self, name, value)
        if self.beta_min > self.beta_max:
            raise ValueError(
                "expected 0 < beta_min <= beta_max, got "
                f"beta_min={self.beta_min}, beta_max={self.beta_max}"
            )

    def log_alpha(self, t: Time) -> Array:
        """log(alpha_t) = -s^2 (B - b) / 4 - s b / 2 with s = 1 - t.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          log(alpha_t), of the shape of t.
        """
        s = 1.0 - with_namespace(t)[1]
        b, B = self.beta_min, self.beta_max
        return -0.25 * s**2 * (B - b) - 0.5 * s * b

    def d_log_alpha(self, t: Time) -> Array:
        """The slope s (B - b) / 2 + b / 2.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          (log alpha_t)', of the shape of t.
        """
        s = 1.0 - with_namespace(t)[1]
        b, B = self.beta_min, self.beta_max
        return 0.5 * s * (B - b) + 0.5 * b

    def log_alpha_inverse(self, log_alpha: Time) -> Array:
        """The root s >= 0 of the quadratic, in the form without cancellation.

        Args:
          log_alpha: at most 0, of any shape.

        Returns:
          The time in [0, 1], of the shape of log_alpha; 0 below log(alpha_0).
        """
        xp, log_alpha = with_namespace(log_alpha)
        lowest = float(self.log_alpha(0.0))
        log_alpha = xp.where(log_alpha < lowest, lowest, log_alpha)
        b, B = self.beta_min, self.beta_max
        root = xp.sqrt(0.25 * b**2 - (B - b) * log_alpha)
        return 1.0 + 2.0 * log_alpha / (0.5 * b + root)
