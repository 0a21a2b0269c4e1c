"""What a scheduler is."""

from __future__ import annotations

import abc
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import kinds
from bns_jax.typing import Array, Time


def with_namespace(t: Time) -> tuple[ModuleType, Array]:
    """The array namespace to compute in, and t as a floating-point array of it.

    Args:
      t: a number or an array of real numbers, of NumPy or JAX.

    Returns:
      The module `numpy` or `jax.numpy`, and t: float64 in NumPy, its own floating-point
      dtype in JAX.

    Raises:
      TypeError: if it is no real number.
    """
    if isinstance(t, jax.Array):
        if not jnp.issubdtype(t.dtype, jnp.floating):
            t = t.astype(jnp.result_type(float))
        return jnp, t
    values = np.asarray(t)
    if values.dtype.kind in "OUSc":
        raise TypeError(f"times must be real numbers, got {values.dtype}")
    return np, values.astype(np.float64)


def check_scheduler(value: Any, optional: bool = False) -> None:
    """Refuses what is no scheduler, such as its name or the function that makes it.

    Args:
      value: what came.
      optional: whether None will do.

    Raises:
      ValueError: naming what came.
    """
    expected = "a scheduler, such as schedulers.cond_ot()"
    kinds.check(expected, value, Scheduler, optional=optional)


LEAST_SIGMA = 1e-5
"""Below it noise is not told from rounding, on paths that reach 0 linearly."""


class Scheduler(abc.ABC):
    """A pair alpha_t, sigma_t with strictly increasing snr(t) = alpha_t / sigma_t.

    Subclasses are frozen dataclasses, so that a scheduler is hashable and equal to
    another of the same numbers: jitted functions may take it as a static argument.
    """

    @abc.abstractmethod
    def alpha(self, t: Time) -> Array:
        """The scale of the data, alpha_t.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t >= 0, of the shape of t.
        """

    @abc.abstractmethod
    def sigma(self, t: Time) -> Array:
        """The scale of the noise, sigma_t.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t >= 0, of the shape of t.
        """

    @abc.abstractmethod
    def d_alpha(self, t: Time) -> Array:
        """The time derivative of alpha_t.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t', of the shape of t.
        """

    @abc.abstractmethod
    def d_sigma(self, t: Time) -> Array:
        """The time derivative of sigma_t.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          sigma_t', infinite where it diverges, of the shape of t.
        """

    @abc.abstractmethod
    def log_snr_inverse(self, log_snr: Time) -> Array:
        """The time at which log(alpha_t / sigma_t) has the given value.

        0 where the path has no such noise: VP and VE begin with a finite amount.

        Args:
          log_snr: log(alpha / sigma), of any shape.

        Returns:
          The time in [0, 1], of the shape of log_snr.
        """

    @property
    def least_sigma(self) -> float:
        """The noise down to which velocities follow sigma_t', see `velocity`."""
        return LEAST_SIGMA

    def snr(self, t: Time) -> Array:
        """The signal-to-noise ratio alpha_t / sigma_t; infinite where sigma_t = 0.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          alpha_t / sigma_t, not squared, of the shape of t.
        """
        with np.errstate(divide="ignore"):
            return self.alpha(t) / self.sigma(t)

    def log_snr(self, t: Time) -> Array:
        """log(alpha_t / sigma_t); -inf where alpha_t = 0, inf where sigma_t = 0.

        Args:
          t: time in [0, 1], of any shape.

        Returns:
          log(alpha_t / sigma_t), half of the log-SNR lambda = log(alpha_t^2 /
          sigma_t^2) of some papers, of the shape of t.
        """
        xp, t = with_namespace(t)
        with np.errstate(divide="ignore"):
            return xp.log(self.alpha(t)) - xp.log(self.sigma(t))

    def snr_inverse(self, snr: Time) -> Array:
        """The time at which alpha_t / sigma_t has the given value.

        0 where the path has no such noise: VP and VE begin with a finite amount.

        Args:
          snr: alpha / sigma, at least 0, of any shape.

        Returns:
          The time in [0, 1], of the shape of snr.
        """
        xp, snr = with_namespace(snr)
        with np.errstate(divide="ignore"):
            return self.log_snr_inverse(xp.log(snr))
