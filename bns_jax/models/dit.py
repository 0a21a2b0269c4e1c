"""DiT (Peebles and Xie, 2023), arXiv:2212.09748, and SiT (Ma et al., 2024).

Both are one transformer over patches of latents; they differ in what they were trained
to predict. Layers carry the names of the published weight files (those of
facebookresearch/DiT and willisma/SiT).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bns_jax.models import labels, layers
from bns_jax.models.layers import WIDE
from bns_jax.models.network import Network

_EPSILON = 1e-6
_WAVES = 256


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """The architecture of a `DiT`; the defaults are those of XL/2 at 256 pixels.

    Attributes:
      image_size: height and width of the latents.
      channels: of the latents.
      num_classes: labels run from 0 to num_classes - 1; the label num_classes is the
        null label, which asks for the unconditional prediction.
      null_label: whether that label has an embedding of its own, as after training
        with label dropout; without one it adds nothing to the embedding of the time.
      patch: side of the square of latents that makes a token.
      width: features of a token.
      depth: blocks.
      heads: of attention.
      mlp_ratio: hidden features of the two-layer networks, over the width.
      learn_sigma: whether the output has as many channels again, for a variance.
    """

    image_size: int = 32
    channels: int = 4
    num_classes: int = 1000
    null_label: bool = True
    patch: int = 2
    width: int = 1152
    depth: int = 28
    heads: int = 16
    mlp_ratio: float = 4.0
    learn_sigma: bool = True

    def __post_init__(self) -> None:
        if self.image_size % self.patch or self.width % self.heads:
            raise ValueError(
                "the patch must divide the image, and the heads the width, got "
                f"image_size={self.image_size}, patch={self.patch}, "
                f"width={self.width}, heads={self.heads}"
            )

    def heads_of(self, layer: str, features: int) -> int:
        """Heads of the attention layer of that name, on that many features.

        Args:
          layer: its name in the file.
          features: that it has.

        Returns:
          The number of heads.
        """
        del layer, features
        return self.heads

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one sample."""
        return (self.image_size, self.image_size, self.channels)

    @property
    def side(self) -> int:
        """Tokens along each axis."""
        return self.image_size // self.patch


def _norm(h: jax.Array) -> jax.Array:
    """Each token to mean 0 and variance 1; float32."""
    norm = nn.LayerNorm(
        _EPSILON, WIDE, use_bias=False, use_scale=False, use_fast_variance=False
    )
    return norm(h)


def _modulate(h: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    return _norm(h) * (1 + scale[:, None]) + shift[:, None]


class _Block(nn.Module):
    """Attention and a two-layer network, each modulated and gated by the embedding."""

    config: DiTConfig
    dtype: Any = WIDE

    @nn.compact
    def __call__(self, h: jax.Array, embedding: jax.Array) -> jax.Array:
        width = self.config.width
        modulation = nn.Dense(6 * width, name="adaLN_modulation.1")(embedding)
        parts = jnp.split(modulation, 6, axis=-1)
        tokens = _modulate(h, *parts[:2]).astype(self.dtype)
        qkv = nn.Dense(3 * width, dtype=self.dtype, name="attn.qkv")(tokens)
        mixed = layers.attention(qkv, self.config.heads, "3hc")
        out = nn.Dense(width, dtype=self.dtype, name="attn.proj")(mixed)
        h += parts[2][:, None] * out.astype(WIDE)
        tokens = _modulate(h, *parts[3:5]).astype(self.dtype)
        features = int(width * self.config.mlp_ratio)
        hidden = nn.Dense(features, dtype=self.dtype, name="mlp.fc1")(tokens)
        hidden = nn.gelu(hidden, approximate=True)
        out = nn.Dense(width, dtype=self.dtype, name="mlp.fc2")(hidden)
        return h + parts[5][:, None] * out.astype(WIDE)


class DiT(Network):
    """What was learned from latents: noise (DiT) or velocity (SiT), and a variance.

    The sum that runs through the blocks stays in float32.

    Attributes: as of `Network`; the dtype is that of attention and two-layer networks.
    """

    config: DiTConfig

    @nn.compact
    def __call__(self, t: jax.Array, x: jax.Array, label: jax.Array) -> jax.Array:
        """Evaluates the network.

        Args:
          t: what it was told in training: the step of a discrete-time schedule (DiT)
            or a time in [0, 1] (SiT); a scalar or (batch,).
          x: latents (batch, height, width, channels).
          label: classes (batch,), integers; num_classes is the null label. Inside of
            jit one that is out of range gives nan.

        Returns:
          (batch, height, width, channels), or twice the channels with a variance in
          the second half; of the dtype of x.

        Raises:
          ValueError: if the labels are no integers (batch,), or known and out of range.
        """
        config = self.config
        label = labels.of_batch(label, x, config.num_classes)
        width, patch, side = config.width, config.patch, config.side
        embedding = nn.silu(self._embed(layers.per_sample(t, x), label))
        h = nn.Conv(width, (patch, patch), patch, name="x_embedder.proj")(
            x.astype(WIDE)
        )
        shape = (1, side**2, width)
        places = self.param("pos_embed", nn.initializers.normal(0.02), shape, WIDE)
        h = h.reshape(len(x), side**2, width) + places
        block = nn.remat(_Block) if self.remat else _Block
        for index in range(config.depth):
            h = block(config, self.dtype, name=f"blocks.{index}")(h, embedding)
        modulation = nn.Dense(2 * width, name="final_layer.adaLN_modulation.1")
        h = _modulate(h, *jnp.split(modulation(embedding), 2, axis=-1))
        channels = config.channels * (2 if config.learn_sigma else 1)
        h = nn.Dense(patch**2 * channels, name="final_layer.linear")(h)
        h = h.reshape(len(x), side, side, patch, patch, channels)
        h = h.transpose(0, 1, 3, 2, 4, 5)
        return h.reshape(*x.shape[:-1], channels).astype(x.dtype)

    def _embed(self, t: jax.Array, label: jax.Array) -> jax.Array:
        """Of time and class, (batch, width)."""
        width = self.config.width
        waves = layers.sinusoids(t, _WAVES)
        h = nn.silu(nn.Dense(width, name="t_embedder.mlp.0")(waves))
        h = nn.Dense(width, name="t_embedder.mlp.2")(h)
        rows = self.config.num_classes + self.config.null_label
        table = nn.Embed(rows, width, name="y_embedder.embedding_table")
        known = (label < rows).astype(WIDE)[:, None]
        of_class = known * table(jnp.clip(label, 0, rows - 1))
        return h + labels.or_nan(of_class, label, self.config.num_classes)
