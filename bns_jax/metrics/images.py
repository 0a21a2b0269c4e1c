"""Images as files hold them: 8 bits, channels last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import jax.numpy as jnp
import numpy as np

from bns_jax.typing import Array

Range = tuple[float, float]
"""The numbers that stand for black and white."""

_LEAST_SIDE = 5
"""Of an image that may be told from one with its channels first."""


def to_bytes(images: Array, value_range: Range | None = None) -> np.ndarray:
    """Images of floating-point numbers as 8 bits, rounded and clipped.

    Args:
      images: (n, height, width, channels), floating-point, or uint8 already.
      value_range: the numbers that become 0 and 255. Left out it is (-1, 1), and images
        with nothing below -0.25 are refused: they are as likely to be in [0, 1], and
        slightly below it by resampling. It is not looked at for uint8.

    Returns:
      The same shape, uint8.

    Raises:
      ValueError: if they have another shape or dtype, are not finite, have their
        channels first, or may be of another range.
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(
            f"expected images of shape (n, height, width, channels), got {images.shape}"
        )
    check_channels(images.shape)
    if images.dtype == np.uint8:
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            "expected images of floating-point numbers in [-1, 1] or uint8, got "
            f"{images.dtype}"
        )
    wide = images.astype(np.float32)
    low, high = check_range(wide, value_range)
    return np.clip(np.rint((wide - low) * (255 / (high - low))), 0, 255).astype(
        np.uint8
    )


def check_channels(shape: tuple[int, ...]) -> None:
    """Refuses images that have their channels first.

    Args:
      shape: of a batch of images.

    Raises:
      ValueError: if the second axis alone can be that of channels.
    """
    channels, *sides = shape[1:]
    if channels in (1, 3, 4) and min(sides) >= _LEAST_SIDE:
        raise ValueError(
            "expected images of shape (n, height, width, channels), got "
            f"{shape}, which have their channels first: "
            "images.transpose(0, 2, 3, 1) puts them last"
        )


def check_range(images: np.ndarray, value_range: Range | None) -> Range:
    """The range of floating-point images, as said or [-1, 1].

    Samples overshoot their range; but never upwards alone, as those of another do.

    Args:
      images: of floating-point numbers.
      value_range: what was said of them.

    Returns:
      Black and white.

    Raises:
      ValueError: if they are not finite, lie far outside of the range, or if it was not
        said and no number lies below -0.25: resampled images in [0, 1] do not either.
    """
    low, high = np.min(images, initial=np.inf), np.max(images, initial=-np.inf)
    found = f"got numbers from {low:.4g} to {high:.4g}"
    if not np.all(np.isfinite(images)):
        raise ValueError(f"expected finite images, {found}")
    if value_range is None:
        if images.size:
            _check_signed(float(low), float(high), found)
        return (-1.0, 1.0)
    black, white = _ends(value_range)
    width = white - black
    if images.size and (low < black - width or high > white + width):
        raise ValueError(f"expected images in [{black:g}, {white:g}], {found}")
    return (black, white)


_UNDERSHOOT = 0.25
"""By how much samples in [0, 1], and resampled images, may fall below 0."""


def _check_signed(low: float, high: float, found: str) -> None:
    """Refuses images that are as likely, or more so, to be in [0, 1] or [0, 255]."""
    if low >= -_UNDERSHOOT:
        little = "nothing" if low >= 0 else f"as little as {low:.2g}"
        raise ValueError(
            f"expected images in [-1, 1], {found}; those in [0, 1] are to come with "
            "value_range=(0, 1), those in [0, 255] as uint8 or with "
            f"value_range=(0, 255), and those in [-1, 1] with {little} below 0 with "
            "value_range=(-1, 1)"
        )
    if high > 3:
        raise ValueError(f"expected images in [-1, 1], {found}; say value_range")


def _ends(value_range: Range) -> Range:
    try:
        black, white = map(float, value_range)
    except (TypeError, ValueError):
        black = white = np.nan
    if not (np.isfinite(white - black) and black < white):
        raise ValueError(f"expected a range (low, high), got {value_range}")
    return black, white


def as_bytes(
    samples: Array | Iterable[Array], batch: int, value_range: Range | None = None
) -> Iterator[np.ndarray]:
    """Images as 8 bits, chunk by chunk; an array too, so that none is held twice.

    Args:
      samples: images (N, height, width, channels), or an iterable of such arrays.
      batch: how many of an array come at once.
      value_range: of floating-point images; see `to_bytes`.

    Yields:
      uint8 images.
    """
    if isinstance(samples, Array):
        for start in range(0, len(samples), batch):
            yield to_bytes(samples[start : start + batch], value_range)
    else:
        for chunk in samples:
            yield to_bytes(chunk, value_range)
