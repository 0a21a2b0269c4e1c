"""Schedulers with alpha_t and sigma_t in closed form."""

from __future__ import annotations

import dataclasses

import numpy as np

from bns_jax import scalars
from bns_jax.schedulers.base import LEAST_SIGMA, Scheduler, with_namespace
from bns_jax.typing import Array, Time


@dataclasses.dataclass(frozen=True)
class CondOT(Scheduler):
    """alpha_t = t, sigma_t = 1 - t (eq. 57): flow matching, rectified flow."""

    def alpha(self, t: Time) -> Array:
        """alpha_t = t.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t, of the shape of t.
        """
        return with_namespace(t)[1]

    def sigma(self, t: Time) -> Array:
        """sigma_t = 1 - t.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t, of the shape of t.
        """
        return 1.0 - with_namespace(t)[1]

    def d_alpha(self, t: Time) -> Array:
        """alpha_t' = 1.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t', of the shape of t.
        """
        xp, t = with_namespace(t)
        return xp.ones_like(t)

    def d_sigma(self, t: Time) -> Array:
        """sigma_t' = -1.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t', of the shape of t.
        """
        xp, t = with_namespace(t)
        return -xp.ones_like(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """The inverse t = 1 / (1 + exp(-log_snr)).

        Args:
          log_snr: log(alpha / sigma), of any shape.

        Returns:
          The time in [0, 1], of the shape of log_snr.
        """
        xp, log_snr = with_namespace(log_snr)
        with np.errstate(over="ignore"):
            return 1.0 / (1.0 + xp.exp(-log_snr))


@dataclasses.dataclass(frozen=True)
class Cosine(Scheduler):
    """alpha_t = sin(pi t / 2), sigma_t = cos(pi t / 2) (eq. 58)."""

    def alpha(self, t: Time) -> Array:
        """alpha_t = sin(pi t / 2).

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t, of the shape of t.
        """
        xp, t = with_namespace(t)
        return xp.sin(np.pi / 2 * t)

    def sigma(self, t: Time) -> Array:
        """sigma_t = cos(pi t / 2), written so that it is exactly 0 at t = 1.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t, of the shape of t.
        """
        xp, t = with_namespace(t)
        return xp.sin(np.pi / 2 * (1.0 - t))

    def d_alpha(self, t: Time) -> Array:
        """alpha_t' = (pi / 2) sigma_t.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t', of the shape of t.
        """
        return np.pi / 2 * self.sigma(t)

    def d_sigma(self, t: Time) -> Array:
        """sigma_t' = -(pi / 2) alpha_t.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t', of the shape of t.
        """
        return -np.pi / 2 * self.alpha(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """The inverse t = (2 / pi) arctan(exp(log_snr)).

        Args:
          log_snr: log(alpha / sigma), of any shape.

        Returns:
          The time in [0, 1], of the shape of log_snr.
        """
        xp, log_snr = with_namespace(log_snr)
        with np.errstate(over="ignore"):
            return 2 / np.pi * xp.arctan(xp.exp(log_snr))


@dataclasses.dataclass(frozen=True)
class VE(Scheduler):
    """alpha_t = 1, sigma_t = sigma_max (1 - t)^rho: variance exploding, EDM."""

    sigma_max: float = 80.0
    rho: float = 1.0

    def __post_init__(self) -> None:
        for name in ("sigma_max", "rho"):
            value = scalars.positive(name, getattr(self, name))
            object.__setattr__(self, name, value)
        if self.rho < 1:
            raise ValueError(
                f"rho must be at least 1, got {self.rho}: below it the velocity is "
                "infinite at t = 1"
            )

    @property
    def least_sigma(self) -> float:
        """That of the same time as on the linear path, as far as float32 holds it."""
        return max(LEAST_SIGMA**self.rho, 1e-30)

    def alpha(self, t: Time) -> Array:
        """alpha_t = 1.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t, of the shape of t.
        """
        xp, t = with_namespace(t)
        return xp.ones_like(t)

    def sigma(self, t: Time) -> Array:
        """sigma_t = sigma_max (1 - t)^rho.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t, of the shape of t.
        """
        return self.sigma_max * _power(1.0 - with_namespace(t)[1], self.rho)

    def d_alpha(self, t: Time) -> Array:
        """alpha_t' = 0.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t', of the shape of t.
        """
        xp, t = with_namespace(t)
        return xp.zeros_like(t)

    def d_sigma(self, t: Time) -> Array:
        """sigma_t' = -rho sigma_max (1 - t)^(rho - 1).

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t', of the shape of t.
        """
        _, t = with_namespace(t)
        return -self.rho * self.sigma_max * _power(1.0 - t, self.rho - 1.0)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """The inverse t = 1 - (exp(-log_snr) / sigma_max)^(1 / rho).

        Args:
          log_snr: log(alpha / sigma), of any shape.

        Returns:
          The time in [0, 1], of the shape of log_snr.
        """
        xp, log_snr = with_namespace(log_snr)
        with np.errstate(over="ignore"):
            sigma = xp.exp(-log_snr)
        share = xp.where(sigma > self.sigma_max, self.sigma_max, sigma) / self.sigma_max
        return 1.0 - share ** (1.0 / self.rho)


def _power(x: Array, p: float) -> Array:
    """x^p, whose derivatives are finite at 0 where p is a whole number."""
    return x ** int(p) if p == int(p) else x**p
