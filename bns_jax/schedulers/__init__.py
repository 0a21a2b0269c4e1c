"""Schedulers (alpha_t, sigma_t) of Gaussian paths N(alpha_t x_1, sigma_t^2 I), eq. 3-4.

Time runs from noise (t = 0) to data (t = 1). Every function follows the namespace of
its input: NumPy float64 for numbers and NumPy arrays, JAX for JAX arrays.
"""

from __future__ import annotations

from bns_jax.schedulers.base import Scheduler as Scheduler
from bns_jax.schedulers.base import check_scheduler as check_scheduler
from bns_jax.schedulers.description import describe as describe
from bns_jax.schedulers.discrete import DiscreteVP as DiscreteVP
from bns_jax.schedulers.discrete import from_alphas_cumprod as from_alphas_cumprod
from bns_jax.schedulers.paths import VE, CondOT, Cosine
from bns_jax.schedulers.shifted import Shifted
from bns_jax.schedulers.variance_preserving import VP


def cond_ot() -> Scheduler:
    """Conditional optimal transport, alpha_t = t, sigma_t = 1 - t (eq. 57).

    Returns:
      The scheduler; it has no numbers of its own.
    """
    return CondOT()


def cosine() -> Scheduler:
    """alpha_t = sin(pi t / 2), sigma_t = cos(pi t / 2) (eq. 58).

    Returns:
      The scheduler; it has no numbers of its own.
    """
    return Cosine()


def vp(beta_min: float = 0.1, beta_max: float = 20.0) -> Scheduler:
    """Variance preserving (eq. 60), b = beta_min and B = beta_max.

    Args:
      beta_min: the rate of noise at the data.
      beta_max: the rate of noise at the noise; beta_min for a constant rate. A model
        whose beta is 1 over ten units of time has beta_min = beta_max = 10 here, where
        all of time has length 1.

    Returns:
      The scheduler; alpha_0 is not 0, and sigma_t' diverges at t = 1.

    Raises:
      ValueError: unless 0 < beta_min <= beta_max are finite.
    """
    return VP(beta_min, beta_max)


def ve(sigma_max: float = 80.0, rho: float = 1.0) -> Scheduler:
    """Variance exploding, alpha_t = 1, sigma_t = sigma_max (1 - t)^rho.

    With rho = 1 it is the path of eq. 16. In float32 its time cannot tell small noise
    levels apart: that of 0.002 below 80 is met to 1e-3 only. With rho = 7 even steps of
    time are the levels of Karras et al. (2022, eq. 5), met to 1e-6.

    Args:
      sigma_max: the noise at t = 0.
      rho: at least 1; how much of the time is spent on small noise.

    Returns:
      The scheduler, on which samples start at sigma_max times the noise.

    Raises:
      ValueError: unless sigma_max is positive and rho at least 1, both finite.
    """
    return VE(sigma_max, rho)


def shifted(shift: float, base: Scheduler | None = None) -> Scheduler:
    """A scheduler with time warped to t / (t + shift (1 - t)).

    Args:
      shift: above 1 spends more time on noise; SD3 uses 3 at 1024 pixels.
      base: the scheduler to warp, cond_ot() if left out.

    Returns:
      The scheduler, whose inverses are in closed form where those of the base are.

    Raises:
      ValueError: unless shift is positive and finite, and base a scheduler.
    """
    check_scheduler(base, optional=True)
    return Shifted(shift, base or CondOT())
