"""DDPM++ and NCSN++ (Song et al., 2021), and the ADM in EDM's writing."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bns_jax.models import edm_precondition, labels, layers
from bns_jax.models.edm_block import Block, conv, norm
from bns_jax.models.layers import WIDE

_ADM, _NCSNPP, _DDPMPP = "dhariwal", "ncsnpp", "ddpmpp"
_HEAD_CHANNELS = 64


@dataclasses.dataclass(frozen=True)
class EDMConfig:
    """The architecture of an `EDMDenoiser`; the defaults are those of CIFAR-10, VP.

    Attributes:
      network: "ddpmpp", "ncsnpp" or "dhariwal".
      image_size: height and width, in pixels.
      channels: of an image.
      num_classes: labels run from 0 to num_classes - 1; 0 for an unconditional network.
        The label num_classes stands for none, as an input of zeros.
      width: features at the first level, times its multiplier.
      multipliers: of the width, one per level, the finest first.
      blocks: residual blocks per level on the way down; one more on the way up.
      attention: sides, in pixels, of the levels that have attention.
      augment: inputs that told the network of augmentations in training; 0 for none.
        Sampling is without any.
      preconditioning: what surrounds the network, of Table 1 of Karras et al. (2022):
        "edm", "vp", "ve" or "iddpm".
      sigma_data: the standard deviation of the data, which "edm" asks for.
    """

    network: str = _DDPMPP
    image_size: int = 32
    channels: int = 3
    num_classes: int = 0
    width: int = 128
    multipliers: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    augment: int = 9
    preconditioning: str = "edm"
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        known = (_DDPMPP, _NCSNPP, _ADM)
        if self.network not in known:
            raise ValueError(
                f"network must be one of {known}, got {self.network!r:.60}"
            )
        edm_precondition.check(self.preconditioning, self.sigma_data)
        if self.image_size % 2 ** (len(self.multipliers) - 1):
            raise ValueError(
                f"{len(self.multipliers)} levels do not halve an image of "
                f"{self.image_size} pixels"
            )

    @property
    def learn_sigma(self) -> bool:
        """Whether the network predicts a variance too, in channels of its own."""
        return self.preconditioning == "iddpm"

    def heads_of(self, layer: str, features: int) -> int:
        """Heads of the attention layer of that name, on that many features.

        Args:
          layer: its name in the file.
          features: that it has.

        Returns:
          The number of heads.
        """
        del layer
        return features // _HEAD_CHANNELS if self.network == _ADM else 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one sample."""
        return (self.image_size, self.image_size, self.channels)

    @property
    def taps(self) -> tuple[int, ...]:
        """Of the filter that stands before and after each change of resolution."""
        return (1, 3, 3, 1) if self.network == _NCSNPP else (1, 1)


class EDMUNet(nn.Module):
    """The network inside of the preconditioning: F(c_noise, c_in x, label).

    Attributes: as of `network.Network`.
    """

    config: EDMConfig
    dtype: Any = WIDE
    remat: bool = False

    @nn.compact
    def __call__(
        self, noise: jax.Array, x: jax.Array, label: jax.Array | None
    ) -> jax.Array:
        """Evaluates the network.

        Args:
          noise: c_noise(sigma) (batch,), float32.
          x: c_in(sigma) times the noisy images (batch, height, width, channels).
          label: classes (batch,), checked; not looked at without classes.

        Returns:
          What the preconditioning mixes with its input, float32; of a network with a
          variance that too, in the second half of the channels.
        """
        embedding = nn.silu(self._embed(noise, label))
        h = self._up(self._down(x, embedding), embedding)
        names = ("out_norm", "out_conv")
        if self._is_song:
            side = _side(self.config.image_size)
            names = (f"dec.{side}_aux_norm", f"dec.{side}_aux_conv")
        h = nn.silu(norm(h.shape[-1], self._epsilon, names[0])(h.astype(WIDE)))
        channels = self.config.channels * (2 if self.config.learn_sigma else 1)
        return conv(channels, WIDE, names[1])(h)

    def _down(self, x: jax.Array, embedding: jax.Array) -> list[jax.Array]:
        """From the finest level to the coarsest; all that the way up looks back at."""
        config = self.config
        first = config.width * (1 if self._is_song else config.multipliers[0])
        h = conv(first, self.dtype, f"enc.{_side(config.image_size)}_conv")(x)
        kept, progressive = [h], x.astype(self.dtype)
        for level, factor in enumerate(config.multipliers):
            pixels = config.image_size >> level
            name = f"enc.{_side(pixels)}"
            if level > 0:
                h = self._block(h, embedding, h.shape[-1], f"{name}_down", "down")
                if config.network == _NCSNPP:
                    h = progressive = self._aside(h, progressive, name)
                kept.append(h)
            for block in range(config.blocks):
                attends = pixels in config.attention
                name_of = f"{name}_block{block}"
                features = factor * config.width
                h = self._block(h, embedding, features, name_of, attends=attends)
                kept.append(h)
        return kept

    def _up(self, kept: list[jax.Array], embedding: jax.Array) -> jax.Array:
        """From the coarsest level to the finest."""
        config, h = self.config, kept[-1]
        coarsest = len(config.multipliers) - 1
        for level in range(coarsest, -1, -1):
            pixels = config.image_size >> level
            features, name = config.multipliers[level] * config.width, _side(pixels)
            if level == coarsest:
                h = self._block(h, embedding, features, f"dec.{name}_in0", attends=True)
                h = self._block(h, embedding, features, f"dec.{name}_in1")
            else:
                h = self._block(h, embedding, h.shape[-1], f"dec.{name}_up", "up")
            for block in range(config.blocks + 1):
                # Song's networks attend once a level on the way up, the ADM always.
                here = not self._is_song or block == config.blocks
                attends = here and pixels in config.attention
                h = jnp.concatenate([h, kept.pop()], axis=-1)
                name_of = f"dec.{name}_block{block}"
                h = self._block(h, embedding, features, name_of, attends=attends)
        return h

    @property
    def _is_song(self) -> bool:
        return self.config.network != _ADM

    @property
    def _epsilon(self) -> float:
        return 1e-6 if self._is_song else 1e-5

    def _embed(self, noise: jax.Array, label: jax.Array | None) -> jax.Array:
        """Of noise level and class, (batch, 4 width)."""
        embed = self._embed_song if self._is_song else self._embed_adm
        return embed(noise, label)

    def _embed_song(self, noise: jax.Array, label: jax.Array | None) -> jax.Array:
        """Sines before cosines, and the class before both layers."""
        config = self.config
        if config.network == _NCSNPP:
            size = 2 * config.width
            shape = (config.width,)
            frequencies = _Frequencies(shape, name="map_noise")()
            angles = 2 * jnp.pi * noise[:, None] * frequencies[None]
            waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        else:
            size = config.width
            waves = layers.sinusoids(noise, size, endpoint=True)
            waves = jnp.roll(waves, size // 2, axis=-1)
        if config.num_classes:
            scaled = self._one_hot(label) * config.num_classes**0.5
            waves += nn.Dense(size, name="map_label")(scaled)
        h = nn.silu(nn.Dense(4 * config.width, name="map_layer0")(waves))
        return nn.Dense(4 * config.width, name="map_layer1")(h)

    def _embed_adm(self, noise: jax.Array, label: jax.Array | None) -> jax.Array:
        """The class after both layers."""
        config, size = self.config, 4 * self.config.width
        waves = layers.sinusoids(noise, config.width)
        h = nn.silu(nn.Dense(size, name="map_layer0")(waves))
        h = nn.Dense(size, name="map_layer1")(h)
        if config.num_classes:
            chosen = self._one_hot(label)
            h += nn.Dense(size, use_bias=False, name="map_label")(chosen)
        return h

    def _one_hot(self, label: jax.Array | None) -> jax.Array:
        """(batch, num_classes): zeros for the null label."""
        classes = self.config.num_classes
        chosen = jax.nn.one_hot(label, classes, dtype=WIDE)
        return labels.or_nan(chosen, label, classes)

    def _block(
        self,
        h: jax.Array,
        embedding: jax.Array,
        features: int,
        name: str,
        resample: str = "",
        attends: bool = False,
    ) -> jax.Array:
        heads = self.config.heads_of(name, features)
        block = nn.remat(Block) if self.remat else Block
        return block(
            features,
            heads=heads if attends else 0,
            adaptive=not self._is_song,
            skip_scale=0.5**0.5 if self._is_song else 1.0,
            epsilon=self._epsilon,
            taps=self.config.taps,
            resample=resample,
            project=self._is_song,
            dtype=self.dtype,
            name=name,
        )(h, embedding)

    def _aside(self, h: jax.Array, progressive: jax.Array, name: str) -> jax.Array:
        """NCSN++'s second way down: the image itself, filtered and halved."""
        taps = self.config.taps
        margin = (len(taps) - 1) // 2
        name = f"{name}_aux_residual"
        aside = conv(h.shape[-1], self.dtype, name, margin=margin)(progressive)
        return (h + layers.down(aside, taps, padded=False)) * 0.5**0.5


def _side(pixels: int) -> str:
    """A level's part of a name, such as 32x32."""
    return f"{pixels}x{pixels}"


class _Frequencies(nn.Module):
    """Random ones, drawn when the network was made."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param("freqs", nn.initializers.normal(16.0), self.shape, WIDE)
