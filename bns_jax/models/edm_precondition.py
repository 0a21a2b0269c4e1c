"""What surrounds the network of a denoiser: Table 1 of Karras et al. (2022).

D(sigma, x) = c_skip x + c_out F(c_noise, c_in x), arXiv:2206.00364, equation 7.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_STEPS = 1000
_BETA_D, _BETA_MIN = 19.9, 0.1
_C_1, _C_2 = 0.001, 0.008

CLASSES = {
    "EDMPrecond": "edm",
    "VPPrecond": "vp",
    "VEPrecond": "ve",
    "iDDPMPrecond": "iddpm",
}
"""The name of a class in EDM's code -> the preconditioning that it is."""

CONSTANTS: dict[str, dict[str, float]] = {
    "edm": {},
    "vp": {"beta_d": _BETA_D, "beta_min": _BETA_MIN, "M": _STEPS},
    "ve": {},
    "iddpm": {"C_1": _C_1, "C_2": _C_2, "M": _STEPS},
}
"""Preconditioning -> the constants in it, by the names of EDM's code."""


class Scalings(NamedTuple):
    """The coefficients at some noise levels (batch,).

    Attributes:
      skip: c_skip, of the noisy input.
      out: c_out, of the network's output.
      given: c_in, of the network's input.
      noise: c_noise, what the network is told of the level.
    """

    skip: jax.Array
    out: jax.Array
    given: jax.Array
    noise: jax.Array


def check(preconditioning: str, sigma_data: float) -> None:
    """Refuses a preconditioning that there is not.

    Args:
      preconditioning: a key of `CONSTANTS`.
      sigma_data: the standard deviation of the data.

    Raises:
      ValueError: naming those that there are.
    """
    if preconditioning not in CONSTANTS:
        raise ValueError(
            f"preconditioning must be one of {list(CONSTANTS)}, got "
            f"{preconditioning!r:.60}"
        )
    if not 0 < sigma_data < math.inf:
        raise ValueError(f"sigma_data must be positive and finite, got {sigma_data}")


def scalings(config: Any, sigma: jax.Array) -> Scalings:
    """The coefficients of a network.

    Args:
      config: its `edm_unet.EDMConfig`.
      sigma: noise levels (batch,), float32.

    Returns:
      c_skip, c_out, c_in and c_noise, each (batch,), float32 (Table 1 of Karras et al.,
      2022).
    """
    return {"edm": _edm, "vp": _vp, "ve": _ve, "iddpm": _iddpm}[config.preconditioning](
        sigma, config.sigma_data
    )


def _edm(sigma: jax.Array, data: float) -> Scalings:
    total = sigma**2 + data**2
    root = jax.lax.rsqrt(total)
    return Scalings(data**2 / total, sigma * data * root, root, jnp.log(sigma) / 4)


def _vp(sigma: jax.Array, _: float) -> Scalings:
    # The time at which beta_d t^2 / 2 + beta_min t = log(1 + sigma^2), without the
    # difference of near numbers that small levels would make of it.
    grown = 2 * jnp.log1p(sigma**2)
    time = grown / (jnp.sqrt(_BETA_MIN**2 + _BETA_D * grown) + _BETA_MIN)
    return _of_noise(sigma, (_STEPS - 1) * time)


def _ve(sigma: jax.Array, _: float) -> Scalings:
    ones = jnp.ones_like(sigma)
    return Scalings(ones, sigma, ones, jnp.log(0.5 * sigma))


def _iddpm(sigma: jax.Array, _: float) -> Scalings:
    """Between its levels the step is fractional; rounded, D would jump there."""
    levels = np.log(iddpm_levels()[-2::-1]).astype(np.float32)
    steps = np.arange(_STEPS, dtype=np.float32)
    return _of_noise(sigma, jnp.interp(jnp.log(sigma), levels, steps))


def _of_noise(sigma: jax.Array, told: jax.Array) -> Scalings:
    """Of a network that predicts the noise in variance-preserved data."""
    return Scalings(jnp.ones_like(sigma), -sigma, jax.lax.rsqrt(sigma**2 + 1), told)


@functools.cache
def iddpm_levels() -> np.ndarray:
    """The noise levels u_0 > ... > u_M = 0 of iDDPM, float64.

    Returns:
      (1001,), decreasing (Karras et al., 2022, Table 1, u_j).
    """
    angles = 0.5 * np.pi * np.arange(_STEPS + 1) / (_STEPS * (_C_2 + 1))
    kept = np.sin(angles) ** 2
    levels = np.zeros(_STEPS + 1)
    for j in range(_STEPS, 0, -1):
        ratio = max(kept[j - 1] / kept[j], _C_1)
        levels[j - 1] = np.sqrt((levels[j] ** 2 + 1) / ratio - 1)
    return levels
