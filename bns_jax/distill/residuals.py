"""Residuals of a batch as plain matrices, and how a loss weighs them."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bns_jax.distill.batch import Batch
from bns_jax.distill.objectives import BatchFunction
from bns_jax.typing import Sample, wider


class Weighted(NamedTuple):
    """A loss, its slope, and the curvature of the parabola that stands for it.

    Attributes:
      loss: (batch,).
      slope: (batch, d), the gradient of each sample's loss in x_n.
      curvature: (batch,), c >= 0 with slope = c r along the residual r.
    """

    loss: jax.Array
    slope: jax.Array
    curvature: jax.Array


def flat(x: Sample, batch_axes: int = 1) -> jax.Array:
    """A pytree of (batch, ...) as one matrix (batch, d), in float32 or wider.

    Args:
      x: leaves (batch, ...).
      batch_axes: how many leading axes are kept.

    Returns:
      (batch, d); d counts the entries of one sample.
    """
    leaves = jax.tree.leaves(x)
    dtype = wider(jnp.float32, *(leaf.dtype for leaf in leaves))
    rows = [leaf.reshape(*leaf.shape[:batch_axes], -1).astype(dtype) for leaf in leaves]
    return jnp.concatenate(rows, axis=-1)


def unflat(rows: jax.Array, like: Sample) -> Sample:
    """The pytree whose `flat` is `rows`, with the shapes of `like`.

    Args:
      rows: (batch, d).
      like: leaves (batch, ...).

    Returns:
      A pytree like `like`, in the dtype of rows.
    """
    leaves, tree = jax.tree.flatten(like)
    ends = itertools.accumulate(leaf[0].size for leaf in leaves)
    parts = jnp.split(rows, list(ends)[:-1], axis=1)
    shaped = [
        part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, shaped)


def weigh(loss: BatchFunction, x: Sample, batch: Batch) -> Weighted:
    """How a loss weighs the residuals r = x - x1.

    The loss is replaced by the parabola around r = 0 that has its slope at r. It is the
    Gauss-Newton model of a loss that is a function of ||r||, (2 / d) / mean(r^2) for
    the logarithm of eq. 13, and lies above it where that function is concave in
    ||r||^2: each least-squares fit then lowers the loss itself.

    Args:
      loss: loss(x, batch) -> (batch,).
      x: what the solver made.
      batch: the samples.

    Returns:
      Losses, slopes and curvatures of the samples.
    """

    def total(x: Sample) -> tuple[jax.Array, jax.Array]:
        losses = loss(x, batch)
        return jnp.sum(losses), losses

    gradient, losses = jax.grad(total, has_aux=True)(x)
    slope, r = flat(gradient), flat(x) - flat(batch.x1)
    along, size = jnp.sum(slope * r, axis=1), jnp.sum(r**2, axis=1)
    curvature = jnp.where(size > 0, along / jnp.where(size > 0, size, 1.0), 0.0)
    return Weighted(losses, slope, jnp.maximum(curvature, 0.0))
