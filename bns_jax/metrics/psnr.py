"""Signal-to-noise ratios: of the peak for data in [-1, 1], of the power for audio."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bns_jax.typing import Sample, wider

_PEAK = 2.0


def mean_over_entries(
    function: Callable[[jax.Array], jax.Array], x: Sample, target: Sample
) -> jax.Array:
    """The mean of function(x - target) over all entries of each sample.

    Args:
      function: of the error, entry by entry.
      x: a pytree of arrays with a leading batch axis.
      target: likewise.

    Returns:
      (batch,), in float32 or wider.
    """

    def total(x: jax.Array, target: jax.Array) -> jax.Array:
        wide = wider(jnp.result_type(x), jnp.result_type(target), jnp.float32)
        error = jnp.asarray(x, wide) - jnp.asarray(target, wide)
        return jnp.sum(function(error), axis=tuple(range(1, error.ndim)))

    leaves = jax.tree.leaves(jax.tree.map(total, x, target))
    entries = sum(leaf[0].size for leaf in jax.tree.leaves(target))
    return sum(leaves[1:], leaves[0]) / entries


def mean_squared_error(x: Sample, target: Sample) -> jax.Array:
    """||x - target||^2 of each sample, the mean over all of its entries (eq. 13)."""
    return mean_over_entries(jnp.square, x, target)


def psnr(x: Sample, target: Sample) -> jax.Array:
    """10 log10(4 / MSE) of each sample in dB; infinite where they are equal.

    Args:
      x: samples in [-1, 1], a pytree of arrays with a leading batch axis.
      target: the true ones.

    Returns:
      (batch,).
    """
    return 10.0 * jnp.log10(_PEAK**2 / mean_squared_error(x, target))


def snr(x: Sample, target: Sample) -> jax.Array:
    """10 log10(||target||^2 / ||x - target||^2) of each sample in dB, for audio.

    Args:
      x: samples of any scale, a pytree of arrays with a leading batch axis.
      target: the true ones.

    Returns:
      (batch,); infinite where they are equal.
    """
    silence = jax.tree.map(jnp.zeros_like, target)
    power = mean_squared_error(target, silence)
    return 10.0 * jnp.log10(power / mean_squared_error(x, target))
