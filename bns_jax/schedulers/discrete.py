"""Schedulers of diffusion models that were trained on a table of discrete steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import notices, scalars
from bns_jax.schedulers.base import with_namespace
from bns_jax.schedulers.variance_preserving import VariancePreserving
from bns_jax.typing import Array, Time

_LEAST_NOISE = 0.5
"""Of the last of alphas_cumprod; that of Stable Diffusion's schedule is 0.0047."""


@dataclasses.dataclass(frozen=True)
class DiscreteVP(VariancePreserving):
    """A discrete-time diffusion model's schedule, log alpha_t interpolated linearly.

    Step k = T - 1 (the noisiest) sits at t = 0, step k at t = 1 - (k + 1) / T, and
    clean data (alpha = 1) at t = 1.

    Attributes:
      log_alphas: log alpha at t = 0, 1/T, ..., 1, increasing, the last one 0.
    """

    log_alphas: tuple[float, ...]

    @functools.cached_property
    def _nodes(self) -> tuple[np.ndarray, np.ndarray]:
        """Times and log alphas; made once, since a solver asks for many times."""
        times = np.linspace(0.0, 1.0, len(self.log_alphas))
        return times, np.array(self.log_alphas)

    def log_alpha(self, t: Time) -> Array:
        """log(alpha_t), linear between the steps.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          log(alpha_t), of the shape of t.
        """
        xp, t = with_namespace(t)
        return xp.interp(t, *self._table(t))

    def d_log_alpha(self, t: Time) -> Array:
        """The slope of log(alpha_t) in the interval that t lies in.

        At the time of a step, rounded or not, it is that of the interval behind it.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          (log alpha_t)', of the shape of t.
        """
        xp, t = with_namespace(t)
        steps = len(self.log_alphas) - 1
        slopes = xp.asarray(np.diff(self._nodes[1]) * steps, t.dtype)
        interval = xp.floor(_to_whole(steps * t, steps)).astype(int)
        return slopes[xp.clip(interval, 0, steps - 1)]

    def log_alpha_inverse(self, log_alpha: Time) -> Array:
        """The time at which log(alpha_t) has the given value, linear between the steps.

        Args:
          log_alpha: at most 0, of any shape.

        Returns:
          The time in [0, 1], of the shape of log_alpha.
        """
        xp, log_alpha = with_namespace(log_alpha)
        times, log_alphas = self._table(log_alpha)
        return xp.interp(log_alpha, log_alphas, times)

    def timestep(self, t: Time) -> Array:
        """The fractional step k in [0, T - 1] that a network of T steps is given.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          The step, a real number, of the shape of t.
        """
        xp, t = with_namespace(t)
        steps = len(self.log_alphas) - 1
        k = xp.clip(steps * (1.0 - t) - 1.0, 0.0, steps - 1.0)
        return _to_whole(k, steps)

    def _table(self, t: Array) -> tuple[Array, Array]:
        """Times and log alphas in the namespace and dtype of t."""
        xp, t = with_namespace(t)
        times, log_alphas = self._nodes
        return xp.asarray(times, t.dtype), xp.asarray(log_alphas, t.dtype)


def _to_whole(k: Array, steps: int) -> Array:
    """A number of steps; the whole one where rounding of times is all between them.

    Without it `astype(int)`, or the interval of a time, may be the one before. Times
    come in single precision anyway, whatever they were widened to since.
    """
    xp, k = with_namespace(k)
    away = xp.round(k) - k
    eps = max(float(xp.finfo(k.dtype).eps), float(np.finfo(np.float32).eps))
    snapped = xp.where(abs(away) <= steps * eps, away, 0.0)
    return k + (jax.lax.stop_gradient(snapped) if xp is jnp else snapped)


@dataclasses.dataclass(frozen=True)
class ZeroTerminalVP(DiscreteVP):
    """A discrete schedule whose noisiest step is pure noise, alpha_0 = 0.

    Its log alpha has no finite value there: up to t = 1/T it is alpha_t that is linear.
    """

    def alpha(self, t: Time) -> Array:
        """alpha_t, linear in the first interval, as of DiscreteVP behind it.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t, of the shape of t.
        """
        xp, first, early, late = self._parts(t)
        return xp.where(first, self._slope * early, super().alpha(late))

    def sigma(self, t: Time) -> Array:
        """sqrt(1 - alpha_t^2).

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t, of the shape of t.
        """
        xp, first, early, late = self._parts(t)
        squares = 1.0 - (self._slope * early) ** 2
        return xp.where(first, xp.sqrt(squares), super().sigma(late))

    def d_alpha(self, t: Time) -> Array:
        """The slope of alpha_t: constant in the first interval, DiscreteVP's behind it.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t', of the shape of t.
        """
        xp, first, _, late = self._parts(t)
        return xp.where(first, self._slope, super().d_alpha(late))

    def log_alpha_inverse(self, log_alpha: Time) -> Array:
        """The time of log(alpha_t): by the first interval's line, then DiscreteVP's.

        Args:
          log_alpha: at most 0, of any shape.

        Returns:
          The time in [0, 1], of the shape of log_alpha.
        """
        xp, log_alpha = with_namespace(log_alpha)
        late = super().log_alpha_inverse(log_alpha)
        early = xp.exp(xp.minimum(log_alpha, self.log_alphas[1])) / self._slope
        return xp.where(log_alpha < self.log_alphas[1], early, late)

    @property
    def _slope(self) -> float:
        """Of alpha in the first interval."""
        return float(np.exp(self.log_alphas[1])) * (len(self.log_alphas) - 1)

    def _parts(self, t: Time) -> tuple[ModuleType, Array, Array, Array]:
        """Whether t is in the first interval, and t held inside it and behind it."""
        xp, t = with_namespace(t)
        steps = len(self.log_alphas) - 1
        first, end = _to_whole(steps * t, steps) < 1, 1.0 / steps
        return xp, first, xp.minimum(t, end), xp.maximum(t, end)

    def _table(self, t: Array) -> tuple[Array, Array]:
        """Without the node at t = 0, where there is no finite value."""
        times, log_alphas = super()._table(t)
        return times[1:], log_alphas[1:]


def from_alphas_cumprod(alphas_cumprod: Sequence[float] | Array) -> DiscreteVP:
    """The scheduler of a discrete-time diffusion model.

    Args:
      alphas_cumprod: the products of 1 - beta, (T,), strictly decreasing in (0, 1):
        step 0 is the cleanest, as in DDPM and its descendants. alpha_t^2 takes
        these values, so alpha is their square root. The last one may be 0 (zero
        terminal SNR: Lin et al., 2024, arXiv:2305.08891): there a prediction of v or of
        the data is defined, and one of the noise is not (`velocity.from_epsilon`).

    Returns:
      A scheduler with step k at t = 1 - (k + 1) / T and clean data at t = 1.

    Raises:
      ValueError: if the values are not such a sequence.

    Warns:
      UserWarning: if its noisiest step is mostly data.
    """
    values = scalars.numbers("alphas_cumprod", alphas_cumprod)
    decreasing = values.ndim == 1 and len(values) > 0 and np.all(np.diff(values) < 0)
    if not decreasing or not (values[-1] >= 0 and 0 < values[0] < 1):
        raise ValueError(
            "alphas_cumprod must be a strictly decreasing sequence inside (0, 1), the "
            "last one may be 0, got "
            f"shape {values.shape} with values from {values.max(initial=-np.inf)} to "
            f"{values.min(initial=np.inf)}"
        )
    if values[-1] > _LEAST_NOISE:
        notices.warn(
            f"the noisiest step of this schedule is {values[-1] ** 0.5:.3g} data, and "
            "hardly noise: alphas_cumprod are products, np.cumprod(1 - betas)"
        )
    with np.errstate(divide="ignore"):
        log_alphas = [*(0.5 * np.log(values[::-1])), 0.0]
    kind = ZeroTerminalVP if values[-1] == 0 else DiscreteVP
    return kind(tuple(map(float, log_alphas)))
