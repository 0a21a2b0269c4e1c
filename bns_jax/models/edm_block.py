"""The residual block that all of EDM's networks are built of."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bns_jax.models import layers
from bns_jax.models.layers import WIDE


class Block(nn.Module):
    """Two modulated convolutions, and attention; may halve or double the image.

    Attributes:
      features: that it gives.
      heads: of attention; 0 for none.
      adaptive: whether the embedding scales and shifts, or is added.
      skip_scale: of each sum with what came in.
      epsilon: of the norms.
      taps: of the filter of resampling.
      resample: "up", "down" or nothing.
      project: whether resampling brings a product to the way past it.
      dtype: of the products.
    """

    features: int
    heads: int
    adaptive: bool
    skip_scale: float
    epsilon: float
    taps: tuple[int, ...]
    resample: str = ""
    project: bool = False
    dtype: Any = WIDE

    @nn.compact
    def __call__(self, h: jax.Array, embedding: jax.Array) -> jax.Array:
        """Runs the block.

        Args:
          h: (batch, height, width, inputs).
          embedding: (batch, size), of the noise level and the label.

        Returns:
          (batch, height', width', features); half or twice the size, if it resamples.
        """
        skip = self._resampled(h)
        if h.shape[-1] != self.features or (self.resample and self.project):
            skip = conv(self.features, self.dtype, "skip", size=1)(skip)
        h = self._resampled(nn.silu(self._norm("norm0", h)))
        h = conv(self.features, self.dtype, "conv0")(h)
        size = self.features * (2 if self.adaptive else 1)
        modulation = nn.Dense(size, name="affine")(embedding).astype(h.dtype)
        modulation = modulation[:, None, None, :]
        if self.adaptive:
            scale, shift = jnp.split(modulation, 2, axis=-1)
            h = self._norm("norm1", h) * (1 + scale) + shift
        else:
            h = self._norm("norm1", h + modulation)
        h = conv(self.features, self.dtype, "conv1")(nn.silu(h))
        h = (h + skip) * self.skip_scale
        return self._attend(h) if self.heads else h

    def _attend(self, h: jax.Array) -> jax.Array:
        qkv = conv(3 * self.features, self.dtype, "qkv", size=1)
        tokens = qkv(self._norm("norm2", h)).reshape(len(h), -1, 3 * self.features)
        mixed = layers.attention(tokens, self.heads, "hc3").reshape(h.shape)
        out = conv(self.features, self.dtype, "proj", size=1)(mixed)
        return (h + out) * self.skip_scale

    def _norm(self, name: str, h: jax.Array) -> jax.Array:
        return norm(h.shape[-1], self.epsilon, name)(h)

    def _resampled(self, h: jax.Array) -> jax.Array:
        if not self.resample:
            return h
        return (layers.up if self.resample == "up" else layers.down)(h, self.taps)


def norm(features: int, epsilon: float, name: str) -> layers.Norm:
    """Groups of at least four features, and at most 32 groups.

    Args:
      features: to normalize.
      epsilon: added to the variance.
      name: of the layer.

    Returns:
      The group norm.
    """
    return layers.Norm(min(32, features // 4), epsilon, name=name)


def conv(
    features: int, dtype: Any, name: str, size: int = 3, margin: int = 0
) -> nn.Conv:
    """A convolution over an image with zeros around it, `margin` more than to fill.

    Args:
      features: that it gives.
      dtype: of the products.
      name: of the layer.
      size: of the kernel, in pixels, odd.
      margin: by how many pixels each side has more zeros than keep the size.

    Returns:
      The convolution.
    """
    padding = size // 2 + margin
    return nn.Conv(features, (size, size), padding=padding, dtype=dtype, name=name)
