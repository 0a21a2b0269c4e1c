"""Schedulers (alpha_t, sigma_t) of Gaussian paths N(alpha_t x_1, sigma_t^2 I), eq. 3-4.

Time runs from noise (t = 0) to data (t = 1). Every function follows the namespace of
its input: NumPy float64 for numbers and NumPy arrays, JAX for JAX arrays.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.typing import Array, Time


def _with_namespace(t: Time) -> tuple[ModuleType, Array]:
    """The array namespace to compute in, and t as an array of it."""
    if isinstance(t, jax.Array):
        return jnp, t
    return np, np.asarray(t, np.float64)


class Scheduler(abc.ABC):
    """A pair alpha_t, sigma_t with strictly increasing snr(t) = alpha_t / sigma_t.

    Subclasses are frozen dataclasses, so that a scheduler is hashable and equal to
    another of the same numbers: jitted functions may take it as a static argument.
    """

    @abc.abstractmethod
    def alpha(self, t: Time) -> Array:
        """The scale of the data, alpha_t."""

    @abc.abstractmethod
    def sigma(self, t: Time) -> Array:
        """The scale of the noise, sigma_t."""

    @abc.abstractmethod
    def d_alpha(self, t: Time) -> Array:
        """The time derivative of alpha_t."""

    @abc.abstractmethod
    def d_sigma(self, t: Time) -> Array:
        """The time derivative of sigma_t."""

    @abc.abstractmethod
    def log_snr_inverse(self, log_snr: Time) -> Array:
        """The time at which log(alpha_t / sigma_t) has the given value."""

    def snr(self, t: Time) -> Array:
        """The signal-to-noise ratio alpha_t / sigma_t; infinite where sigma_t = 0."""
        with np.errstate(divide="ignore"):
            return self.alpha(t) / self.sigma(t)

    def log_snr(self, t: Time) -> Array:
        """log(alpha_t / sigma_t); -inf where alpha_t = 0, inf where sigma_t = 0."""
        xp, t = _with_namespace(t)
        with np.errstate(divide="ignore"):
            return xp.log(self.alpha(t)) - xp.log(self.sigma(t))

    def snr_inverse(self, snr: Time) -> Array:
        """The time at which alpha_t / sigma_t has the given value."""
        xp, snr = _with_namespace(snr)
        with np.errstate(divide="ignore"):
            return self.log_snr_inverse(xp.log(snr))


@dataclasses.dataclass(frozen=True)
class CondOT(Scheduler):
    """alpha_t = t, sigma_t = 1 - t (eq. 57): flow matching, rectified flow."""

    def alpha(self, t: Time) -> Array:
        """T."""
        return _with_namespace(t)[1]

    def sigma(self, t: Time) -> Array:
        """1 - t."""
        return 1.0 - _with_namespace(t)[1]

    def d_alpha(self, t: Time) -> Array:
        """1."""
        xp, t = _with_namespace(t)
        return xp.ones_like(t)

    def d_sigma(self, t: Time) -> Array:
        """-1."""
        xp, t = _with_namespace(t)
        return -xp.ones_like(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """1 / (1 + exp(-log_snr))."""
        xp, log_snr = _with_namespace(log_snr)
        with np.errstate(over="ignore"):
            return 1.0 / (1.0 + xp.exp(-log_snr))


@dataclasses.dataclass(frozen=True)
class Cosine(Scheduler):
    """alpha_t = sin(pi t / 2), sigma_t = cos(pi t / 2) (eq. 58)."""

    def alpha(self, t: Time) -> Array:
        """sin(pi t / 2)."""
        xp, t = _with_namespace(t)
        return xp.sin(np.pi / 2 * t)

    def sigma(self, t: Time) -> Array:
        """cos(pi t / 2), written so that it is exactly 0 at t = 1."""
        xp, t = _with_namespace(t)
        return xp.sin(np.pi / 2 * (1.0 - t))

    def d_alpha(self, t: Time) -> Array:
        """(pi / 2) sigma_t."""
        return np.pi / 2 * self.sigma(t)

    def d_sigma(self, t: Time) -> Array:
        """-(pi / 2) alpha_t."""
        return -np.pi / 2 * self.alpha(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """(2 / pi) arctan(exp(log_snr))."""
        xp, log_snr = _with_namespace(log_snr)
        with np.errstate(over="ignore"):
            return 2 / np.pi * xp.arctan(xp.exp(log_snr))


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
        return _with_namespace(log_alpha)[0].exp(log_alpha)

    def sigma(self, t: Time) -> Array:
        """sqrt(1 - alpha_t^2), without cancellation near t = 1."""
        log_alpha = self.log_alpha(t)
        xp, _ = _with_namespace(log_alpha)
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
        xp, log_snr = _with_namespace(log_snr)
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
        s = 1.0 - _with_namespace(t)[1]
        b, B = self.beta_min, self.beta_max
        return -0.25 * s**2 * (B - b) - 0.5 * s * b

    def d_log_alpha(self, t: Time) -> Array:
        """S (B - b) / 2 + b / 2."""
        s = 1.0 - _with_namespace(t)[1]
        b, B = self.beta_min, self.beta_max
        return 0.5 * s * (B - b) + 0.5 * b

    def log_alpha_inverse(self, log_alpha: Time) -> Array:
        """The root s >= 0 of the quadratic, in the form without cancellation."""
        xp, log_alpha = _with_namespace(log_alpha)
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
        xp, t = _with_namespace(t)
        return xp.interp(t, *self._table(t))

    def d_log_alpha(self, t: Time) -> Array:
        """The slope of the interval that t lies in."""
        xp, t = _with_namespace(t)
        times, log_alphas = self._table(t)
        slopes = xp.diff(log_alphas) / xp.diff(times)
        interval = xp.searchsorted(times, t, side="right") - 1
        return slopes[xp.clip(interval, 0, len(slopes) - 1)]

    def log_alpha_inverse(self, log_alpha: Time) -> Array:
        """Linear between the steps."""
        xp, log_alpha = _with_namespace(log_alpha)
        times, log_alphas = self._table(log_alpha)
        return xp.interp(log_alpha, log_alphas, times)

    def timestep(self, t: Time) -> Array:
        """The fractional step k in [0, T - 1] that a network of T steps is given."""
        xp, t = _with_namespace(t)
        steps = len(self.log_alphas) - 1
        return xp.clip(steps * (1.0 - t) - 1.0, 0.0, steps - 1.0)

    def _table(self, t: Array) -> tuple[Array, Array]:
        """Times and log alphas in the namespace and dtype of t."""
        xp, t = _with_namespace(t)
        return xp.asarray(self._times, t.dtype), xp.asarray(self.log_alphas, t.dtype)


@dataclasses.dataclass(frozen=True)
class VE(Scheduler):
    """alpha_t = 1, sigma_t = sigma_max (1 - t) (eq. 16): variance exploding, EDM."""

    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not self.sigma_max > 0:
            raise ValueError(f"sigma_max must be positive, got {self.sigma_max}")

    def alpha(self, t: Time) -> Array:
        """1."""
        xp, t = _with_namespace(t)
        return xp.ones_like(t)

    def sigma(self, t: Time) -> Array:
        """sigma_max (1 - t)."""
        return self.sigma_max * (1.0 - _with_namespace(t)[1])

    def d_alpha(self, t: Time) -> Array:
        """0."""
        xp, t = _with_namespace(t)
        return xp.zeros_like(t)

    def d_sigma(self, t: Time) -> Array:
        """-sigma_max."""
        xp, t = _with_namespace(t)
        return -self.sigma_max * xp.ones_like(t)

    def log_snr_inverse(self, log_snr: Time) -> Array:
        """1 - exp(-log_snr) / sigma_max."""
        xp, log_snr = _with_namespace(log_snr)
        return 1.0 - xp.exp(-log_snr) / self.sigma_max


@dataclasses.dataclass(frozen=True)
class Shifted(Scheduler):
    """`base` at the warped time t / (t + shift (1 - t)).

    On the cond-OT path this divides the signal-to-noise ratio by `shift`: the
    resolution shift of flow models (Esser et al., 2024, section 5.3.2).
    """

    shift: float
    base: Scheduler = dataclasses.field(default_factory=CondOT)

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise ValueError(f"shift must be positive, got {self.shift}")

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
        _, t = _with_namespace(t)
        return t / (t + self.shift * (1.0 - t))

    def _d_warp(self, t: Time) -> Array:
        _, t = _with_namespace(t)
        return self.shift / (t + self.shift * (1.0 - t)) ** 2


def cond_ot() -> Scheduler:
    """Conditional optimal transport, alpha_t = t, sigma_t = 1 - t (eq. 57)."""
    return CondOT()


def cosine() -> Scheduler:
    """alpha_t = sin(pi t / 2), sigma_t = cos(pi t / 2) (eq. 58)."""
    return Cosine()


def vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Scheduler:
    """Variance preserving (eq. 60), b = beta_min and B = beta_max.

    Raises:
      ValueError: unless 0 < beta_min < beta_max.
    """
    return VP(beta_min, beta_max)


def ve(sigma_max: float = 80.0) -> Scheduler:
    """Variance exploding, alpha_t = 1, sigma_t = sigma_max (1 - t) (eq. 16).

    Raises:
      ValueError: unless sigma_max > 0.
    """
    return VE(sigma_max)


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


def shifted(shift: float, base: Scheduler | None = None) -> Scheduler:
    """A scheduler with time warped to t / (t + shift (1 - t)).

    Args:
      shift: above 1 spends more time on noise; SD3 uses 3 at 1024 pixels.
      base: the scheduler to warp, cond_ot() if left out.

    Raises:
      ValueError: unless shift > 0.
    """
    return Shifted(shift, base or CondOT())
