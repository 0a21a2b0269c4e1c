"""Signal-to-noise ratios: of the peak of bounded data, of the power for audio."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import scalars
from bns_jax.metrics.checks import check_pair, check_real
from bns_jax.typing import Sample, wider

USUAL_RANGE = 2.0
"""Of data in [-1, 1]."""


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

    Raises:
      ValueError: if x and target are not of one structure and of the same shapes, or
        hold complex numbers.
      TypeError: if they hold none.
    """
    check_pair(x, target)

    def total(x: jax.Array, target: jax.Array) -> jax.Array:
        wide = wider(jnp.result_type(x), jnp.result_type(target), jnp.float32)
        error = jnp.asarray(x, wide) - jnp.asarray(target, wide)
        return jnp.sum(function(error), axis=tuple(range(1, error.ndim)))

    leaves = jax.tree.leaves(jax.tree.map(total, x, target))
    entries = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(target))
    return sum(leaves[1:], leaves[0]) / entries


def mean_squared_error(x: Sample, target: Sample) -> jax.Array:
    """||x - target||^2 of each sample, the mean over all of its entries (eq. 13).

    Args:
      x: samples, a pytree of arrays with a leading batch axis.
      target: the true ones, of the same shapes.

    Returns:
      (batch,), in float32 or wider.

    Raises:
      ValueError: as `psnr`.
    """
    return mean_over_entries(jnp.square, x, target)


def psnr(x: Sample, target: Sample, data_range: float = USUAL_RANGE) -> jax.Array:
    """10 log10(range^2 / MSE) of each sample in dB; infinite where they are equal.

    For other data than in [-1, 1] it has a meaning with their range alone. As the
    metric of `distill.fit`: `functools.partial(psnr, data_range=...)`.

    Args:
      x: samples, a pytree of arrays with a leading batch axis.
      target: the true ones, of the same shapes.
      data_range: the peak, from the least to the largest value that data have; 2 is
        that of [-1, 1], 1 of [0, 1]. `data_range` measures that of given data.

    Returns:
      (batch,).

    Raises:
      ValueError: if x and target differ in structure or shape, hold complex numbers,
        or the range is not positive and finite.
      TypeError: if they hold no numbers.
    """
    data_range = scalars.positive("data_range", data_range)
    return 10.0 * jnp.log10(data_range**2 / mean_squared_error(x, target))


def data_range(data: Sample) -> float:
    """From the least to the largest value of data, for `psnr`.

    Args:
      data: a pytree of concrete arrays, best of the data that a model was trained on.

    Returns:
      The difference of the two, positive.

    Raises:
      ValueError: if it is empty, constant or not finite, or holds complex numbers.
    """
    leaves = jax.tree.leaves(data)
    for leaf in leaves:
        check_real(leaf)
    ends = [(np.min(leaf), np.max(leaf)) for leaf in leaves if np.size(leaf)]
    low = min((float(end[0]) for end in ends), default=math.nan)
    high = max((float(end[1]) for end in ends), default=math.nan)
    if not 0 < high - low < math.inf:
        raise ValueError(
            f"expected data of finite numbers that differ, got {low:g} to {high:g}"
        )
    return high - low


def snr(x: Sample, target: Sample) -> jax.Array:
    """10 log10(||target||^2 / ||x - target||^2) of each sample in dB, for audio.

    Args:
      x: samples of any scale, a pytree of arrays with a leading batch axis.
      target: the true ones, of the same shapes.

    Returns:
      (batch,); infinite where they are equal.

    Raises:
      ValueError: as `psnr`.
    """
    check_pair(x, target)
    silence = jax.tree.map(jnp.zeros_like, target)
    power = mean_squared_error(target, silence)
    return 10.0 * jnp.log10(power / mean_squared_error(x, target))
