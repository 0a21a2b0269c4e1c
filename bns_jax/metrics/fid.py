"""The Fréchet inception distance of images, by whatever network sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import jax.numpy as jnp
import numpy as np
from etils import epath

from bns_jax.metrics.frechet import Gaussian, check, frechet_distance
from bns_jax.metrics.reference import read_statistics
from bns_jax.metrics.streaming import Features, statistics
from bns_jax.typing import Array


def fid(
    samples: Array | Iterable[Array],
    reference: Gaussian | epath.PathLike,
    features: Features,
    batch: int = 64,
) -> float:
    """The Fréchet distance from images to a reference set (Heusel et al., 2017).

    With FID's own network, and statistics as guided-diffusion or EDM publish them:

        from bns_jax.models import inception

        params = inception.load("pt_inception-2015-12-05-6726825d.pth")
        features = inception.features(params, resize="tensorflow")
        metrics.fid(images, "cifar10-32x32.npz", features)

    Args:
      samples: images as `image_statistics` takes them; published figures are of 50,000.
      reference: statistics of the same features: from `image_statistics`, or a file
        that `read_statistics` reads.
      features: what a network sees in uint8 images, (batch, d).
      batch: how many images it sees at once.

    Returns:
      The distance, at least 0.

    Raises:
      ValueError: if the samples are no images, or the reference is of another number of
        features; said at the first batch.
    """
    if isinstance(reference, Gaussian):
        reference = check(reference)
    else:
        reference = read_statistics(reference)
    expected = len(reference.mean)

    def same_size(images: np.ndarray) -> Array:
        found = features(images)
        if found.shape[1:] != (expected,):
            raise ValueError(
                f"the reference statistics are of {expected} features, but the features"
                f" of a batch of images have shape {found.shape}"
            )
        return found

    return frechet_distance(image_statistics(samples, same_size, batch), reference)


def image_statistics(
    samples: Array | Iterable[Array], features: Features, batch: int = 64
) -> Gaussian:
    """The Gaussian that fits the features of images as files hold them.

    Published figures are of such files, so images of floating-point numbers are first
    rounded to 8 bits, as `to_bytes` does.

    Args:
      samples: images (N, height, width, channels), floating-point in [-1, 1] (what is
        outside is clipped) or uint8; or an iterable of arrays of such images, of any
        number each, which are never held all at once.
      features: what a network sees in uint8 images (batch, height, width, channels),
        (batch, d), such as `models.inception.features` makes.
      batch: how many images it sees at once.

    Returns:
      Their mean and covariance, for `fid` or `write_statistics`.

    Raises:
      ValueError: if the samples are no images, or fewer than two.
    """
    return statistics(_images(samples, batch), features, batch)


def to_bytes(images: Array) -> np.ndarray:
    """Images in [-1, 1] as 8 bits: 255 (x + 1) / 2, rounded and clipped.

    Args:
      images: (n, height, width, channels), floating-point, or uint8 already.

    Returns:
      The same shape, uint8.

    Raises:
      ValueError: if they have another shape or dtype, are not finite, or look as if
        they were in [0, 255].
    """
    images = np.asarray(images)
    if images.ndim != 4:
        raise ValueError(
            f"expected images of shape (n, height, width, channels), got {images.shape}"
        )
    if images.dtype == np.uint8:
        return images
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            "expected images of floating-point numbers in [-1, 1] or uint8, got "
            f"{images.dtype}"
        )
    wide = images.astype(np.float32)
    low, high = np.min(wide, initial=np.inf), np.max(wide, initial=0.0)
    # Samples overshoot [-1, 1]; but never upwards alone, as those in [0, 255] do.
    if not np.all(np.isfinite(wide)) or (low >= 0 and high > 2):
        raise ValueError(
            f"expected finite images in [-1, 1], got numbers from {low:.4g} to "
            f"{high:.4g}; those in [0, 255] are to be uint8"
        )
    return np.clip(np.rint((wide + 1) * 127.5), 0, 255).astype(np.uint8)


def _images(samples: Array | Iterable[Array], batch: int) -> Iterator[np.ndarray]:
    """As 8 bits, chunk by chunk; an array in chunks too, so that none is held twice."""
    if isinstance(samples, Array):
        for start in range(0, len(samples), batch):
            yield to_bytes(samples[start : start + batch])
    else:
        yield from map(to_bytes, samples)
