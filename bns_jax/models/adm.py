"""ADM, the U-Net of Dhariwal and Nichol (2021), arXiv:2105.05233.

Layers carry the names that they have in the published weight files (those of
openai/guided-diffusion), so that the tree of parameters says which tensor goes where.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from bns_jax import scalars
from bns_jax.models import labels, layers
from bns_jax.models.adm_block import (
    EPSILON,
    GROUPS,
    ADMAttentionBlock,
    ADMResidualBlock,
    conv,
)
from bns_jax.models.layers import WIDE
from bns_jax.models.network import Network


@dataclasses.dataclass(frozen=True)
class ADMConfig:
    """The architecture of an `ADM`; the defaults are those of ImageNet-64.

    Attributes:
      image_size: height and width, in pixels.
      channels: of an image.
      num_classes: labels run from 0 to num_classes - 1; 0 for an unconditional network.
        The label num_classes asks for the unconditional prediction.
      null_label: whether that label has an embedding of its own, as after training
        with label dropout; without one it adds nothing to the embedding of the time.
      width: features at the first level, times its multiplier.
      multipliers: of the width, one per level, the finest first.
      blocks: residual blocks per level on the way down; one more on the way up.
      attention: sides, in pixels, of the levels that have attention.
      head_channels: features of a head; None if `heads` counts instead.
      heads: of each attention layer.
      heads_upsample: of those on the way up; None for as many as elsewhere.
      order: how queries, keys and values are laid out, see `layers.attention`.
      scale_shift: whether the embedding scales and shifts, or is added.
      residual_resampling: whether residual blocks change the resolution, or single
        convolutions.
      learn_sigma: whether the network predicts a variance too, in channels of its own.
    """

    image_size: int = 64
    channels: int = 3
    num_classes: int = 1000
    null_label: bool = False
    width: int = 192
    multipliers: tuple[float, ...] = (1, 2, 3, 4)
    blocks: int = 3
    attention: tuple[int, ...] = (32, 16, 8)
    head_channels: int | None = 64
    heads: int = 1
    heads_upsample: int | None = None
    order: str = "3hc"
    scale_shift: bool = True
    residual_resampling: bool = True
    learn_sigma: bool = True

    def __post_init__(self) -> None:
        if any(features % GROUPS for features in self.features):
            raise ValueError(
                f"every level of an ADM needs a multiple of {GROUPS} features, got "
                f"width={self.width} and multipliers={self.multipliers}"
            )
        halvings = 2 ** (len(self.multipliers) - 1)
        if self.image_size % halvings:
            raise ValueError(
                f"{len(self.multipliers)} levels halve the image {halvings}-fold: "
                f"image_size must be a multiple of that, got {self.image_size}"
            )
        self._check_heads()

    @property
    def _attended(self) -> set[int]:
        """Features of the levels that have attention."""
        levels = enumerate(self.features)
        return {n for level, n in levels if self.image_size >> level in self.attention}

    def _check_heads(self) -> None:
        """Refuses heads that do not divide the features of a layer with attention."""
        for name in ("heads", "heads_upsample", "head_channels"):
            value = getattr(self, name)
            if value is not None or name == "heads":
                scalars.count(name, value)
        rest = {*self._attended, self.features[-1]}
        used = {"heads": rest, "heads_upsample": self._attended}
        if self.head_channels:
            used = {"head_channels": rest}
        for name, widths in used.items():
            count = getattr(self, name)
            wrong = [width for width in sorted(widths) if count and width % count]
            if wrong:
                raise ValueError(
                    f"{name} must divide the features of every layer of attention, "
                    f"{sorted(widths)}, got {count}"
                )

    @property
    def features(self) -> tuple[int, ...]:
        """Features at each level."""
        return tuple(int(factor * self.width) for factor in self.multipliers)

    def heads_of(self, layer: str, features: int) -> int:
        """Heads of the attention layer of that name, on that many features.

        Args:
          layer: its name in the file.
          features: that it has.

        Returns:
          The number of heads.
        """
        if self.head_channels:
            return features // self.head_channels
        upwards = layer.startswith("output_blocks.")
        return (self.heads_upsample if upwards else None) or self.heads

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one sample."""
        return (self.image_size, self.image_size, self.channels)


class ADM(Network):
    """The noise (and, if learned, the variance) that is in an image.

    Attributes: as of `Network`; the dtype is that of convolutions and attention.
    """

    config: ADMConfig

    @nn.compact
    def __call__(
        self, step: jax.Array, x: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:
        """Evaluates the network.

        Args:
          step: of the discrete-time schedule, 0 the cleanest; may be fractional;
            a scalar or (batch,).
          x: images (batch, height, width, channels).
          label: classes (batch,), integers; not looked at without classes. Inside of
            jit one that is out of range gives nan.

        Returns:
          (batch, height, width, channels), or twice the channels with a learned
          variance in the second half; of the dtype of x.

        Raises:
          ValueError: if the labels are no integers (batch,), or known and out of range.
        """
        config = self.config
        classes = config.num_classes
        label = labels.of_batch(label, x, classes) if classes else None
        embedding = nn.silu(self._embed(layers.per_sample(step, x), label))
        kept = self._down(x, embedding)
        h = self._middle(kept[-1], embedding)
        h = self._up(h, kept, embedding)
        h = nn.silu(layers.Norm(GROUPS, EPSILON, name="out.0")(h.astype(WIDE)))
        channels = config.channels * (2 if config.learn_sigma else 1)
        return conv(channels, WIDE, "out.2")(h).astype(x.dtype)

    def _down(self, x: jax.Array, embedding: jax.Array) -> list[jax.Array]:
        """From the finest level to the coarsest; all that the way up looks back at."""
        config = self.config
        kept = [conv(config.features[0], self.dtype, "input_blocks.0.0")(x)]
        for level, features in enumerate(config.features):
            if level > 0:
                name = f"input_blocks.{len(kept)}.0"
                kept.append(self._resample(kept[-1], embedding, "down", name))
            for _ in range(config.blocks):
                name = f"input_blocks.{len(kept)}"
                kept.append(self._block(kept[-1], embedding, features, name))
        return kept

    def _middle(self, h: jax.Array, embedding: jax.Array) -> jax.Array:
        """On the coarsest level."""
        h = self._residual(h, embedding, h.shape[-1], "middle_block.0")
        h = self._attention(h, "middle_block.1")
        return self._residual(h, embedding, h.shape[-1], "middle_block.2")

    def _up(
        self, h: jax.Array, kept: list[jax.Array], embedding: jax.Array
    ) -> jax.Array:
        """From the coarsest level to the finest."""
        config, count = self.config, len(kept)
        for level, features in reversed(list(enumerate(config.features))):
            for block in range(config.blocks + 1):
                name = f"output_blocks.{count - len(kept)}"
                h = jnp.concatenate([h, kept.pop()], axis=-1)
                h = self._block(h, embedding, features, name)
                if level > 0 and block == config.blocks:
                    last = 2 if self._has_attention(h) else 1
                    h = self._resample(h, embedding, "up", f"{name}.{last}")
        return h

    def _embed(self, step: jax.Array, label: jax.Array | None) -> jax.Array:
        """Of time and class, (batch, 4 width)."""
        config, size = self.config, 4 * self.config.width
        embedding = nn.Dense(size, name="time_embed.0")(
            layers.sinusoids(step, config.width)
        )
        embedding = nn.Dense(size, name="time_embed.2")(nn.silu(embedding))
        if label is None:
            return embedding
        rows = config.num_classes + config.null_label
        table = nn.Embed(rows, size, name="label_emb")
        known = (label < rows).astype(WIDE)[:, None]
        of_class = known * table(jnp.clip(label, 0, rows - 1))
        return embedding + labels.or_nan(of_class, label, config.num_classes)

    def _has_attention(self, h: jax.Array) -> bool:
        return h.shape[1] in self.config.attention

    def _block(
        self, h: jax.Array, embedding: jax.Array, features: int, name: str
    ) -> jax.Array:
        """A residual block, and attention where the level has it."""
        h = self._residual(h, embedding, features, f"{name}.0")
        return self._attention(h, f"{name}.1") if self._has_attention(h) else h

    def _residual(
        self, h: jax.Array, embedding: jax.Array, features: int, name: str, by: str = ""
    ) -> jax.Array:
        block = nn.remat(ADMResidualBlock) if self.remat else ADMResidualBlock
        scale_shift = self.config.scale_shift
        return block(features, scale_shift, by, self.dtype, name=name)(h, embedding)

    def _attention(self, h: jax.Array, name: str) -> jax.Array:
        block = nn.remat(ADMAttentionBlock) if self.remat else ADMAttentionBlock
        heads = self.config.heads_of(name, h.shape[-1])
        return block(heads, self.config.order, self.dtype, name=name)(h)

    def _resample(
        self, h: jax.Array, embedding: jax.Array, by: str, name: str
    ) -> jax.Array:
        """Halves or doubles the image."""
        features = h.shape[-1]
        if self.config.residual_resampling:
            return self._residual(h, embedding, features, name, by)
        if by == "down":
            return conv(features, self.dtype, f"{name}.op", stride=2)(h)
        return conv(features, self.dtype, f"{name}.conv")(layers.up(h))
