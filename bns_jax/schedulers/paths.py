"""Schedulers with alpha_t and sigma_t in closed form, and time warps of others."""

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
        """T."""
        return with_namespace(t)[1]

    def sigma(self, t: Time) -> Array:
        """1 - t."""
        return 1.0 - with_namespace(t)[1]

    def d_alpha(self, t: Time) -> Array:
        """1."""
        xp, t = with_namespace(t)
        return xp.ones_like(t)

    def d_sigma(self, t: Time) -> Array:
        """-1."""
        xp, t = with_namespace(t)
        return -xp.ones_like(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """1 / (1 + exp(-log_snr))."""
        xp, log_snr = with_namespace(log_snr)
        with np.errstate(over="ignore"):
            return 1.0 / (1.0 + xp.exp(-log_snr))


@dataclasses.dataclass(frozen=True)
class Cosine(Scheduler):
    """alpha_t = sin(pi t / 2), sigma_t = cos(pi t / 2) (eq. 58)."""

    def alpha(self, t: Time) -> Array:
        """sin(pi t / 2)."""
        xp, t = with_namespace(t)
        return xp.sin(np.pi / 2 * t)

    def sigma(self, t: Time) -> Array:
        """cos(pi t / 2), written so that it is exactly 0 at t = 1."""
        xp, t = with_namespace(t)
        return xp.sin(np.pi / 2 * (1.0 - t))

    def d_alpha(self, t: Time) -> Array:
        """(pi / 2) sigma_t."""
        return np.pi / 2 * self.sigma(t)

    def d_sigma(self, t: Time) -> Array:
        """-(pi / 2) alpha_t."""
        return -np.pi / 2 * self.alpha(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """(2 / pi) arctan(exp(log_snr))."""
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
        """1."""
        xp, t = with_namespace(t)
        return xp.ones_like(t)

    def sigma(self, t: Time) -> Array:
        """sigma_max (1 - t)^rho."""
        return self.sigma_max * _power(1.0 - with_namespace(t)[1], self.rho)

    def d_alpha(self, t: Time) -> Array:
        """0."""
        xp, t = with_namespace(t)
        return xp.zeros_like(t)

    def d_sigma(self, t: Time) -> Array:
        """-rho sigma_max (1 - t)^(rho - 1)."""
        _, t = with_namespace(t)
        return -self.rho * self.sigma_max * _power(1.0 - t, self.rho - 1.0)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """1 - (exp(-log_snr) / sigma_max)^(1 / rho)."""
        xp, log_snr = with_namespace(log_snr)
        with np.errstate(over="ignore"):
            sigma = xp.exp(-log_snr)
        share = xp.where(sigma > self.sigma_max, self.sigma_max, sigma) / self.sigma_max
        return 1.0 - share ** (1.0 / self.rho)


def _power(x: Array, p: float) -> Array:
    """x^p, whose derivatives are finite at 0 where p is a whole number."""
    return x ** int(p) if p == int(p) else x**p


@dataclasses.dataclass(frozen=True)
class Shifted(Scheduler):
    """`base` at the warped time t / (t + shift (1 - t)).

    On the cond-OT path this divides the signal-to-noise ratio by `shift`: the
    resolution shift of flow models (Esser et al., 2024, section 5.3.2).
    """

    shift: float
    base: Scheduler = dataclasses.field(default_factory=CondOT)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift", scalars.positive("shift", self.shift))

    def alpha(self, t: Time) -> Array:
        """Alpha of the base at the warped time."""
        return self.base.alpha(self._warp(t))

    def sigma(self, t: Time) -> Array:
        """Sigma of the base at the warped time."""
        return self.base.sigma(self._warp(t))

    def d_alpha(self, t: Time) -> Array:
        """By the chain rule."""
        return self.base.d_alpha(self._warp(t)) * self._d_warp(t)

    def d_sigma(self, t: Time) -> Array:
        """By the chain rule."""
        return self.base.d_sigma(self._warp(t)) * self._d_warp(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """The base's, unwarped."""
        warped = self.base.log_snr_inverse(log_snr)
        return self.shift * warped / (1.0 + (self.shift - 1.0) * warped)

    def _warp(self, t: Time) -> Array:
        _, t = with_namespace(t)
        return t / (t + self.shift * (1.0 - t))

    def _d_warp(self, t: Time) -> Array:
        _, t = with_namespace(t)
        return self.shift / (t + self.shift * (1.0 - t)) ** 2
