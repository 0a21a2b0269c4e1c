"""Losses: functions of (x_n, x(1)) to one number per sample."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from bns_jax.metrics import mean_squared_error
from bns_jax.typing import Sample


def psnr_loss(x: Sample, target: Sample) -> jax.Array:
    """Log ||x - target||^2 of each sample, whose mean is minimised (eq. 13).

    Eq. 13 prints a minus sign, with which descent would enlarge the error.

    Args:
      x: what the solver made, leading batch axis.
      target: the true samples.

    Returns:
      (batch,). A sample that is hit exactly gives a finite value with gradient 0.
    """
    error = mean_squared_error(x, target)
    return jnp.log(error + jnp.finfo(error.dtype).tiny)
