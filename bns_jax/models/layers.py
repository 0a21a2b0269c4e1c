"""What the published networks have in common.

Weights are float32. Products run in the network's compute dtype; norms, softmaxes and
embeddings run in float32 whatever that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

WIDE = jnp.float32
"""The dtype of what must not be rounded."""


def sinusoids(
    t: jax.Array, count: int, period: float = 10_000.0, endpoint: bool = False
) -> jax.Array:
    """Cosines, then sines, of t at frequencies from 1 down to 1 / period.

    Args:
      t: times (batch,).
      count: features, even.
      period: the longest, divided by two pi.
      endpoint: whether the last frequency is 1 / period itself, or the one before.

    Returns:
      (batch, count), float32.
    """
    half = count // 2
    exponents = np.arange(half) / (half - 1 if endpoint else half)
    frequencies = jnp.asarray(float(period) ** -exponents, WIDE)
    angles = t.astype(WIDE)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Norm(nn.Module):
    """A group norm in float32, handed on in the dtype of its input."""

    groups: int
    epsilon: float

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """Normalizes each group of features of a sample.

        Args:
          h: (batch, ..., features).

        Returns:
          Of the same shape and dtype.
        """
        scale = self.param("scale", nn.initializers.ones, h.shape[-1:], WIDE)
        bias = self.param("bias", nn.initializers.zeros, h.shape[-1:], WIDE)
        grouped = h.astype(WIDE).reshape(
            len(h), -1, self.groups, h.shape[-1] // self.groups
        )
        mean = jnp.mean(grouped, axis=(1, 3), keepdims=True)
        variance = jnp.var(grouped, axis=(1, 3), keepdims=True)
        unit = (grouped - mean) * jax.lax.rsqrt(variance + self.epsilon)
        shape = (1,) * (h.ndim - 1) + (-1,)
        return (
            unit.reshape(h.shape) * scale.reshape(shape) + bias.reshape(shape)
        ).astype(h.dtype)


def attention(qkv: jax.Array, heads: int, order: str) -> jax.Array:
    """Attention between all tokens of a sample.

    Args:
      qkv: queries, keys and values (batch, tokens, 3 features).
      heads: that divide the features.
      order: how the last axis is laid out: "3hc" (queries, keys, values; then heads),
        "h3c" or "hc3".

    Returns:
      (batch, tokens, features).
    """
    batch, tokens, features = qkv.shape
    sizes = {"3": 3, "h": heads, "c": features // (3 * heads)}
    split = qkv.reshape(batch, tokens, *(sizes[axis] for axis in order))
    q, k, v = jnp.moveaxis(split, 2 + order.index("3"), 0)
    scale = jnp.asarray(sizes["c"] ** -0.25, qkv.dtype)
    product = "bqhc,bkhc->bhqk"
    scores = jnp.einsum(product, q * scale, k * scale, preferred_element_type=WIDE)
    shares = jax.nn.softmax(scores, axis=-1).astype(qkv.dtype)
    return jnp.einsum("bhqk,bkhc->bqhc", shares, v).reshape(batch, tokens, -1)


def down(
    h: jax.Array, taps: Sequence[float] = (1, 1), padded: bool = True
) -> jax.Array:
    """Filters, and keeps every other pixel; two equal taps take the mean of four.

    Args:
      h: (batch, height, width, features).
      taps: of the filter along each axis; their sum does not matter.
      padded: whether zeros stand around the image, so that its size is halved.

    Returns:
      (batch, height / 2, width / 2, features) if padded; else a pixel less for each two
      taps beyond two.
    """
    weights = np.asarray(taps) / np.sum(taps)
    margin = (len(taps) - 1) // 2 if padded else 0
    for axis in (1, 2):
        margins = [(margin, margin) if i == axis else (0, 0) for i in range(h.ndim)]
        wide = jnp.pad(h, margins)
        end = wide.shape[axis] - len(taps) + 1
        parts = (
            weight * jax.lax.slice_in_dim(wide, k, k + end, 2, axis)
            for k, weight in enumerate(weights.tolist())
        )
        h = sum(parts)  # type: ignore[assignment]
    return h


def up(h: jax.Array, taps: Sequence[float] = (1, 1)) -> jax.Array:
    """The transpose of `down`, times 4: two equal taps repeat each pixel.

    Args:
      h: (batch, height, width, features).
      taps: as of `down`.

    Returns:
      (batch, 2 height, 2 width, features).
    """
    weights = 2 * np.asarray(taps) / np.sum(taps)
    count = len(taps)
    for axis in (1, 2):
        size, margin = 2 * h.shape[axis], (count - 1) // 2
        margins = [(0, 0, 0)] * h.ndim
        margins[axis] = (count - 1 - margin, margin + 1, 1)
        wide = jax.lax.pad(h, jnp.zeros((), h.dtype), margins)
        parts = (
            weight
            * jax.lax.slice_in_dim(wide, count - 1 - k, count - 1 - k + size, 1, axis)
            for k, weight in enumerate(weights.tolist())
        )
        h = sum(parts)  # type: ignore[assignment]
    return h


def per_sample(t: Any, x: jax.Array) -> jax.Array:
    """A time, scalar or (batch,), as float32 (batch,).

    Args:
      t: a scalar or (batch,).
      x: the batch, (batch, ...).

    Returns:
      (batch,), float32.
    """
    return jnp.broadcast_to(jnp.asarray(t, WIDE), x.shape[:1])
