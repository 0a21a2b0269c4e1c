"""The residual and attention blocks that ADM is built of."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bns_jax.models import layers
from bns_jax.models.layers import WIDE

GROUPS = 32
"""Of features, in each norm."""

EPSILON = 1e-5
"""Added to the variance in each norm."""


class ADMResidualBlock(nn.Module):
    """Two convolutions, modulated between them; may halve or double the image.

    Attributes:
      features: that it gives.
      scale_shift: whether the embedding scales and shifts, or is added.
      resample: "up", "down" or nothing.
      dtype: of the products.
    """

    features: int
    scale_shift: bool
    resample: str = ""
    dtype: Any = WIDE

    @nn.compact
    def __call__(self, h: jax.Array, embedding: jax.Array) -> jax.Array:
        """Runs the block.

        Args:
          h: (batch, height, width, inputs).
          embedding: (batch, size), of the time and the label.

        Returns:
          (batch, height', width', features); half or twice the size, if it resamples.
        """
        skip = h
        h = nn.silu(layers.Norm(GROUPS, EPSILON, name="in_layers.0")(h))
        if self.resample:
            change = {"up": layers.up, "down": layers.down}[self.resample]
            h, skip = change(h), change(skip)
        h = conv(self.features, self.dtype, "in_layers.2")(h)
        size = self.features * (2 if self.scale_shift else 1)
        modulation = nn.Dense(size, name="emb_layers.1")(embedding).astype(h.dtype)
        modulation = modulation[:, None, None, :]
        norm = layers.Norm(GROUPS, EPSILON, name="out_layers.0")
        if self.scale_shift:
            scale, shift = jnp.split(modulation, 2, axis=-1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + modulation)
        h = conv(self.features, self.dtype, "out_layers.3")(nn.silu(h))
        if skip.shape[-1] != self.features:
            skip = conv(self.features, self.dtype, "skip_connection", size=1)(skip)
        return skip + h


class ADMAttentionBlock(nn.Module):
    """Attention between all pixels.

    Attributes:
      heads: that divide the features.
      order: of the products, as of `layers.attention`.
      dtype: of the products.
    """

    heads: int
    order: str
    dtype: Any = WIDE

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """Adds to each pixel what it attends to.

        Args:
          h: (batch, height, width, features).

        Returns:
          Of the same shape.
        """
        features = h.shape[-1]
        tokens = layers.Norm(GROUPS, EPSILON, name="norm")(h)
        tokens = tokens.reshape(len(h), -1, features)
        qkv = nn.Conv(3 * features, (1,), dtype=self.dtype, name="qkv")(tokens)
        mixed = layers.attention(qkv, self.heads, self.order)
        out = nn.Conv(features, (1,), dtype=self.dtype, name="proj_out")(mixed)
        return h + out.reshape(h.shape)


def conv(
    features: int, dtype: Any, name: str, size: int = 3, stride: int = 1
) -> nn.Conv:
    """A convolution over an image with zeros around it.

    Args:
      features: that it gives.
      dtype: of the products.
      name: of the layer.
      size: of the kernel, in pixels, odd.
      stride: in pixels.

    Returns:
      The convolution.
    """
    padding = size // 2
    return nn.Conv(
        features, (size, size), stride, padding=padding, dtype=dtype, name=name
    )
