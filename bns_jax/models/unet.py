"""A small class-conditional U-Net for images of a few pixels a side."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.models import labels
from bns_jax.typing import wider


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The architecture of a `UNet`.

    Attributes:
      image_shape: (height, width, channels) of one sample.
      num_classes: labels run from 0 to num_classes - 1; the label num_classes is
        the null label, which asks for the unconditional prediction.
      channels: features at each resolution, the finest first; each level halves
        height and width.
      blocks: residual blocks per level, on the way down and on the way up.
      embedding: features of the time and class embedding.
      groups: groups of each normalisation; divides every entry of `channels`.
      dropout: rate inside the residual blocks while training.
    """

    image_shape: tuple[int, int, int] = (8, 8, 1)
    num_classes: int = 10
    channels: tuple[int, ...] = (16, 56)
    blocks: int = 1
    embedding: int = 128
    groups: int = 8
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if not self.channels or self.groups < 1:
            raise ValueError(
                "a U-Net needs at least one level in channels and one group, got "
                f"channels={self.channels} and groups={self.groups}"
            )
        height, width, _ = self.image_shape
        halvings = 2 ** (len(self.channels) - 1)
        if height % halvings or width % halvings:
            raise ValueError(
                f"{len(self.channels)} levels halve the image {halvings}-fold: height "
                f"and width must be multiples of {halvings}, got {height} x {width}"
            )
        if any(features % self.groups for features in self.channels):
            raise ValueError(
                f"groups must divide every entry of channels, got groups="
                f"{self.groups} and channels={self.channels}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> UNetConfig:
        """From JSON values, as `dataclasses.asdict` and a file give them.

        Args:
          values: an entry for each field; lists stand for tuples.

        Returns:
          The configuration.

        Raises:
          ValueError: if a name is unknown or missing.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise ValueError(
                f"a U-Net's configuration has the entries {sorted(names)}, got "
                f"{sorted(values)}"
            )
        lists = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **lists})


def _time_features(t: jax.Array, count: int = 32) -> jax.Array:
    """Sines and cosines of t in [0, 1]: (batch,) -> (batch, count)."""
    frequencies = jnp.geomspace(1.0, 64.0, count // 2, dtype=t.dtype)
    angles = t[:, None] * frequencies[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _product_over_shifts(
    x: jax.Array, kernel: jax.Array, *_: Any, precision: Any = None, **__: Any
) -> jax.Array:
    """A 3x3 convolution of stride 1 as one matrix product over the nine shifts of x.

    Distillation differentiates the network inside a loop, where XLA's CPU backend
    takes many times longer for the gradient of a convolution than for this.
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [
        padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)
    ]
    columns = jnp.concatenate(shifts, axis=-1)
    return jnp.matmul(
        columns, kernel.reshape(-1, kernel.shape[-1]), precision=precision
    )


_Conv3x3 = partial(
    nn.Conv, kernel_size=(3, 3), conv_general_dilated=_product_over_shifts
)


class GroupNorm(nn.Module):
    """A group norm whose means over groups are matrix products.

    XLA's CPU backend is much slower at reductions over positions and the features of a
    group at once.
    """

    groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        """Normalises (batch, ..., features).

        Args:
          h: (batch, height, width, features).

        Returns:
          Of the same shape and dtype.
        """
        features, dtype = h.shape[-1], wider(jnp.float32, h.dtype)
        shape = (1,) * (h.ndim - 1) + (features,)
        scale = self.param("scale", nn.initializers.ones, (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
        h, scale, bias = (leaf.astype(dtype) for leaf in (h, scale, bias))
        scale, bias = scale.reshape(shape), bias.reshape(shape)
        size = features // self.groups
        same_group = np.kron(np.eye(self.groups), np.ones((size, size)))
        over_group = jnp.asarray(same_group / size, dtype)

        def mean(h: jax.Array) -> jax.Array:
            over_positions = jnp.mean(h, axis=range(1, h.ndim - 1), keepdims=True)
            return jnp.dot(over_positions, over_group, precision="highest")

        centre = mean(h)
        variance = jnp.maximum(mean(h**2) - centre**2, 0.0)
        gain = jax.lax.rsqrt(variance + self.epsilon) * scale
        return h * gain + (bias - centre * gain)


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions, modulated by the embedding between them."""

    features: int
    groups: int
    dropout: float

    @nn.compact
    def __call__(self, h: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        skip = h if h.shape[-1] == self.features else nn.Dense(self.features)(h)
        h = nn.silu(GroupNorm(self.groups)(h))
        h = _Conv3x3(self.features)(h)
        modulation = nn.Dense(2 * self.features)(nn.silu(embedding))
        scale, shift = jnp.split(modulation[:, None, None, :], 2, axis=-1)
        h = nn.silu(GroupNorm(self.groups)(h) * (1 + scale) + shift)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = _Conv3x3(self.features, kernel_init=nn.initializers.zeros)(h)
        return skip + h


class _AttentionBlock(nn.Module):
    """Self-attention over all pixels of the coarsest level."""

    groups: int

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        batch, height, width, features = h.shape
        tokens = GroupNorm(self.groups)(h).reshape(batch, height * width, features)
        query, key, value = jnp.split(nn.Dense(3 * features)(tokens), 3, axis=-1)
        scores = jnp.einsum("bqc,bkc->bqk", query, key) * features**-0.5
        mixed = jnp.einsum("bqk,bkc->bqc", jax.nn.softmax(scores, axis=-1), value)
        out = nn.Dense(features, kernel_init=nn.initializers.zeros)(mixed)
        return h + out.reshape(h.shape)


def _halve(h: jax.Array) -> jax.Array:
    """(batch, height, width, c) -> (batch, height / 2, width / 2, 4 c), no loss."""
    batch, height, width, c = h.shape
    h = h.reshape(batch, height // 2, 2, width // 2, 2, c)
    return h.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * c)


def _double(h: jax.Array) -> jax.Array:
    """The inverse of `_halve`."""
    batch, height, width, c = h.shape
    h = h.reshape(batch, height, width, 2, 2, c // 4)
    return h.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, c // 4)


class UNet(nn.Module):
    """u(t, x, label): a velocity, noise or data prediction of the shape of x."""

    config: UNetConfig

    def shapes(self) -> Any:
        """The parameters as shapes and dtypes; nothing is computed.

        Returns:
          Nested dictionaries of `jax.ShapeDtypeStruct`.
        """
        x = jax.ShapeDtypeStruct((1, *self.config.image_shape), jnp.float32)
        label = jax.ShapeDtypeStruct((1,), jnp.int32)
        init = partial(self.init, jax.random.key(0), 0.5)
        return jax.eval_shape(init, x, label)["params"]

    def check_args(self, args: tuple[Any, ...]) -> None:
        """Checks the labels of all samples; see `conditioning.check`.

        Args:
          args: what follows x in a call of the field, concrete.

        Raises:
          ValueError: unless they are labels (N,) in range.
        """
        labels.check_args(args, self.config.num_classes)

    @nn.compact
    def __call__(
        self, t: jax.Array, x: jax.Array, label: jax.Array, train: bool = False
    ) -> jax.Array:
        """Evaluates the network.

        Args:
          t: time in [0, 1], a scalar for the whole batch or (batch,).
          x: images (batch, height, width, channels).
          label: classes (batch,), integers; num_classes is the null label. Inside of
            jit one that is out of range gives nan.
          train: whether dropout is on (then the rng "dropout" is needed).

        Returns:
          The prediction, of the shape and dtype of x.

        Raises:
          ValueError: if the labels are no integers (batch,), or known and out of range.
        """
        config, classes = self.config, self.config.num_classes
        label = labels.of_batch(label, x, classes)
        t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
        embedding = nn.Dense(config.embedding)(_time_features(t))
        of_class = nn.Embed(classes + 1, config.embedding)(label)
        embedding += labels.or_nan(of_class, label, classes)
        embedding = nn.Dense(config.embedding)(nn.silu(embedding))

        def block(h: jax.Array, features: int) -> jax.Array:
            residual = _ResidualBlock(features, config.groups, config.dropout)
            return residual(h, embedding, train)

        h = _Conv3x3(config.channels[0])(x)
        skips = []
        for level, features in enumerate(config.channels):
            if level > 0:
                h = nn.Dense(features)(_halve(h))
            for _ in range(config.blocks):
                h = block(h, features)
                skips.append(h)
        h = _AttentionBlock(config.groups)(block(h, config.channels[-1]))
        for level, features in reversed(list(enumerate(config.channels))):
            for _ in range(config.blocks):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), features)
            if level > 0:
                h = _double(nn.Dense(4 * config.channels[level - 1])(h))
        h = nn.silu(GroupNorm(config.groups)(h))
        out = _Conv3x3(x.shape[-1], kernel_init=nn.initializers.zeros)(h)
        return out.astype(x.dtype)
