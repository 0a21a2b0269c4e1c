"""FID's Inception-v3.

It is the network of 2015 that the TensorFlow code of Heusel et al. (2017) ran, as
pytorch-fid and torch-fidelity carry it over: its average pools leave the padding out,
and its last block pools by the maximum. Layers bear the names of those files. Each
normalisation is a fixed scale and shift by then, and is folded into the convolution
before it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

SIDE = 299
"""Height and width of the images it was made for."""


class Inception(nn.Module):
    """Images in [-1, 1] (batch, height, width, 3) -> features (batch, 2048).

    Height and width are 299 for FID; the network itself takes any from 75 on.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes the features of the last pool.

        Args:
          x: (batch, height, width, 3), in [-1, 1].

        Returns:
          (batch, 2048), the mean over all places.
        """
        x = _conv(x, "Conv2d_1a_3x3", 32, (3, 3), stride=2)
        x = _conv(x, "Conv2d_2a_3x3", 32, (3, 3), padding="VALID")
        x = _conv(x, "Conv2d_2b_3x3", 64, (3, 3))
        x = _halving_max(x)
        x = _conv(x, "Conv2d_3b_1x1", 80)
        x = _conv(x, "Conv2d_4a_3x3", 192, (3, 3), padding="VALID")
        x = _halving_max(x)
        x = _BlockA(32, name="Mixed_5b")(x)
        x = _BlockA(64, name="Mixed_5c")(x)
        x = _BlockA(64, name="Mixed_5d")(x)
        x = _BlockB(name="Mixed_6a")(x)
        x = _BlockC(128, name="Mixed_6b")(x)
        x = _BlockC(160, name="Mixed_6c")(x)
        x = _BlockC(160, name="Mixed_6d")(x)
        x = _BlockC(192, name="Mixed_6e")(x)
        x = _BlockD(name="Mixed_7a")(x)
        x = _BlockE(_mean_3x3, name="Mixed_7b")(x)
        x = _BlockE(_max_3x3, name="Mixed_7c")(x)
        return jnp.mean(x, axis=(1, 2))


def _conv(
    x: jax.Array,
    name: str,
    count: int,
    kernel: tuple[int, int] = (1, 1),
    stride: int = 1,
    padding: str = "SAME",
) -> jax.Array:
    """A convolution and a ReLU; one of stride 2 takes no padding."""
    layer = nn.Conv(
        count,
        kernel,
        stride,
        padding="VALID" if stride == 2 else padding,
        precision=jax.lax.Precision.HIGHEST,
        name=name,
    )
    return nn.relu(layer(x))


def _chain(x: jax.Array, name: str, *layers: Any) -> jax.Array:
    """Convolutions one after the other, called name_1, name_2, ..."""
    for number, layer in enumerate(layers, 1):
        x = _conv(x, f"{name}_{number}", *layer)
    return x


def _fork(x: jax.Array, name: str) -> jax.Array:
    """A row and a column convolution side by side."""
    row = _conv(x, f"{name}a", 384, (1, 3))
    column = _conv(x, f"{name}b", 384, (3, 1))
    return jnp.concatenate([row, column], axis=-1)


def _mean_3x3(x: jax.Array) -> jax.Array:
    """The mean over the neighbours that exist."""
    add = partial(nn.pool, init=0.0, reduce_fn=jax.lax.add, window_shape=(3, 3))
    ones = jnp.ones_like(x[:1, ..., :1])
    total, number = (add(y, strides=(1, 1), padding="SAME") for y in (x, ones))
    return total / number


def _max_3x3(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), padding="SAME")


def _halving_max(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


class _BlockA(nn.Module):
    """35 x 35: a 5x5 convolution beside two of 3x3."""

    pooled: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        branches = [
            _conv(x, "branch1x1", 64),
            _chain(x, "branch5x5", (48,), (64, (5, 5))),
            _chain(x, "branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3))),
            _conv(_mean_3x3(x), "branch_pool", self.pooled),
        ]
        return jnp.concatenate(branches, axis=-1)


class _BlockB(nn.Module):
    """35 x 35 to 17 x 17."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        branches = [
            _conv(x, "branch3x3", 384, (3, 3), 2),
            _chain(x, "branch3x3dbl", (64,), (96, (3, 3)), (96, (3, 3), 2)),
            _halving_max(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class _BlockC(nn.Module):
    """17 x 17: 7x7 convolutions as rows and columns."""

    narrow: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, row, column = self.narrow, (1, 7), (7, 1)
        twice = ((c,), (c, column), (c, row), (c, column), (192, row))
        branches = [
            _conv(x, "branch1x1", 192),
            _chain(x, "branch7x7", (c,), (c, row), (192, column)),
            _chain(x, "branch7x7dbl", *twice),
            _conv(_mean_3x3(x), "branch_pool", 192),
        ]
        return jnp.concatenate(branches, axis=-1)


class _BlockD(nn.Module):
    """17 x 17 to 8 x 8."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = ((192,), (192, (1, 7)), (192, (7, 1)), (192, (3, 3), 2))
        branches = [
            _chain(x, "branch3x3", (192,), (320, (3, 3), 2)),
            _chain(x, "branch7x7x3", *wide),
            _halving_max(x),
        ]
        return jnp.concatenate(branches, axis=-1)


class _BlockE(nn.Module):
    """8 x 8: 3x3 convolutions that end in a fork."""

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        once = _chain(x, "branch3x3", (384,))
        twice = _chain(x, "branch3x3dbl", (448,), (384, (3, 3)))
        branches = [
            _conv(x, "branch1x1", 320),
            _fork(once, "branch3x3_2"),
            _fork(twice, "branch3x3dbl_3"),
            _conv(self.pool(x), "branch_pool", 192),
        ]
        return jnp.concatenate(branches, axis=-1)
