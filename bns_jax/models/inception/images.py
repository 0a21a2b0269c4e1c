"""The features that FID compares, of images of any size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.metrics.images import Range, check_range
from bns_jax.models.inception.network import SIDE, Inception

Resize = Literal["pytorch", "tensorflow"]


def features(
    params: Any, resize: Resize = "pytorch", value_range: Range | None = None
) -> Callable[[np.ndarray], jax.Array]:
    """The features of images, for `metrics.fid`.

    Args:
      params: of `Inception`, as `load` and `convert` give them.
      resize: how images come to 299 x 299, both bilinear without antialiasing.
        "pytorch" is what pytorch-fid does. "tensorflow" is what guided-diffusion, EDM
        and torch-fidelity do, and so what their reference statistics are of: it lays
        the top left corners of the images over one another instead of their centres,
        and takes 8 bits to [-1, 1) by (x - 128) / 128.
      value_range: of images of floating-point numbers, [-1, 1] if left out; a batch
        with nothing below -0.25 is then refused, see `metrics.to_bytes`.

    Returns:
      A function from images (batch, height, width, channels), uint8 or floating-point,
      to their features (batch, 2048), float32. The one channel of a grey image is
      repeated, as pytorch-fid and EDM do.

    Raises:
      ValueError: if `resize` is neither; by the function returned, if its argument is
        no such batch.
    """
    if resize not in ("pytorch", "tensorflow"):
        raise ValueError(
            f'expected resize "pytorch" or "tensorflow", got {resize!r:.60}'
        )

    def function(images: np.ndarray) -> jax.Array:
        floating = jnp.issubdtype(images.dtype, jnp.floating)
        if images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise ValueError(
                "expected images of shape (batch, height, width, 3), or 1 for grey, "
                f"got {images.shape}"
            )
        if not floating and images.dtype != jnp.uint8:
            raise ValueError(
                f"expected floating-point numbers or uint8, got {images.dtype}"
            )
        if floating:
            low, high = check_range(np.asarray(images, np.float32), value_range)
            images = (images - low) * (2 / (high - low)) - 1
        return _network(params, prepare(images, resize))

    return function


@jax.jit
def _network(params: Any, images: jax.Array) -> jax.Array:
    """Compiled apart from `prepare`: once for images of all sizes and dtypes."""
    return Inception().apply({"params": params}, images)


@partial(jax.jit, static_argnames="resize")
def prepare(images: jax.Array, resize: Resize) -> jax.Array:
    """Images as the network takes them: (batch, 299, 299, 3) in [-1, 1], float32.

    Args:
      images: (batch, height, width, 1 or 3), uint8, or floating-point in [-1, 1].
      resize: as of `features`.

    Returns:
      (batch, 299, 299, 3), float32.
    """
    x = images.astype(jnp.float32)
    if resize == "tensorflow":
        x = x if images.dtype == jnp.uint8 else (x + 1) * 127.5
        x = (x - 128) / 128
    elif images.dtype == jnp.uint8:
        x = x / 127.5 - 1
    rows, columns = (interpolation(side, resize) for side in images.shape[1:3])
    x = jnp.einsum(
        "ih,bhwc,jw->bijc", rows, x, columns, precision=jax.lax.Precision.HIGHEST
    )
    return jnp.broadcast_to(x, (*x.shape[:3], 3))


def interpolation(side: int, resize: Resize) -> np.ndarray:
    """Linear interpolation of `side` pixels at 299 places: (299, side), float32.

    Args:
      side: pixels that there are.
      resize: as of `features`.

    Returns:
      The matrix, whose rows sum to 1.
    """
    centre = 0.5 if resize == "pytorch" else 0.0
    places = (np.arange(SIDE) + centre) * (side / SIDE) - centre
    places = np.clip(places, 0, side - 1)
    distances = np.abs(places[:, None] - np.arange(side))
    return np.maximum(1 - distances, 0).astype(np.float32)
