"""Losses: functions of (x_n, x(1)) to one number per sample, minimised in the mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from bns_jax import scalars
from bns_jax.metrics import mean_squared_error
from bns_jax.metrics.psnr import mean_over_entries
from bns_jax.typing import Sample


def psnr_loss(x: Sample, target: Sample) -> jax.Array:
    """Log ||x - target||^2 of each sample, whose mean is minimised (eq. 13).

    ||.||^2 is the mean over all entries of a sample, here and below. Eq. 13 prints a
    minus sign, with which descent would enlarge the error.

    Args:
      x: what the solver made, leading batch axis.
      target: the true samples.

    Returns:
      (batch,). A sample that is hit exactly gives a finite value with gradient 0.
    """
    error = mean_squared_error(x, target)
    return jnp.log(error + jnp.finfo(error.dtype).tiny)


def mse_loss(x: Sample, target: Sample) -> jax.Array:
    """||x - target||^2 of each sample, the mean over its entries.

    Args:
      x: what the solver made, leading batch axis.
      target: the true samples.

    Returns:
      (batch,), in float32 or wider.
    """
    return mean_squared_error(x, target)


def snr_loss(x: Sample, target: Sample) -> jax.Array:
    """Log (||x - target||^2 / ||target||^2) of each sample, for audio.

    It has the gradient of `psnr_loss`; its value is what `metrics.snr` measures.

    Args:
      x: what the solver made, leading batch axis.
      target: the true samples.

    Returns:
      (batch,). A sample that is hit exactly gives a finite value with gradient 0.
    """
    loss = psnr_loss(x, target)
    silence = jax.tree.map(jnp.zeros_like, target)
    power = mean_squared_error(target, silence)
    return loss - jnp.log(power + jnp.finfo(power.dtype).tiny)


def huber_loss(delta: float = 1.0) -> Callable[[Sample, Sample], jax.Array]:
    """A squared error near 0 and an absolute one far away, in the mean of all entries.

    Args:
      delta: where the one turns into the other.

    Returns:
      loss(x, target) -> (batch,).

    Raises:
      ValueError: unless delta is positive and finite.
    """
    return _Huber(scalars.positive("delta", delta))


@dataclasses.dataclass(frozen=True)
class _Huber:
    delta: float

    def __call__(self, x: Sample, target: Sample) -> jax.Array:
        entry = partial(optax.losses.huber_loss, delta=self.delta)
        return mean_over_entries(entry, x, target)


OF_DISTANCE = frozenset({psnr_loss, mse_loss, snr_loss})
"""Losses that depend on x by ||x - target|| alone."""
