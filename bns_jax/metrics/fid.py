"""The Fréchet inception distance of images, by whatever network sees them."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
from etils import epath

from bns_jax import kinds
from bns_jax.metrics.frechet import Gaussian, check, frechet_distance
from bns_jax.metrics.images import Range, as_bytes
from bns_jax.metrics.reference import read_statistics
from bns_jax.metrics.streaming import Features, statistics
from bns_jax.typing import Array


def fid(
    samples: Array | Iterable[Array],
    reference: Gaussian | epath.PathLike,
    features: Features,
    batch: int = 64,
    value_range: Range | None = None,
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
        that `read_statistics` reads; where that holds images, their features are
        computed too.
      features: what a network sees in uint8 images, (batch, d).
      batch: how many images it sees at once.
      value_range: of images of floating-point numbers, see `to_bytes`.

    Returns:
      The distance, at least 0.

    Raises:
      ValueError: if the samples are no images, or the reference is of another number of
        features; said at the first batch.
    """
    kinds.check_function("features", features, "features(images)")
    kinds.check(
        "statistics, or the path of a file of them",
        reference,
        (Gaussian, str, os.PathLike),
        "reference",
    )
    if isinstance(reference, Gaussian):
        reference = check(reference)
    else:
        reference = read_statistics(reference, features=features, batch=batch)
    expected = len(reference.mean)

    def same_size(images: np.ndarray) -> Array:
        found = features(images)
        if found.shape[1:] != (expected,):
            raise ValueError(
                f"the reference statistics are of {expected} features, but the features"
                f" of a batch of images have shape {found.shape}"
            )
        return found

    fitted = image_statistics(samples, same_size, batch, value_range)
    return frechet_distance(fitted, reference)


def image_statistics(
    samples: Array | Iterable[Array],
    features: Features,
    batch: int = 64,
    value_range: Range | None = None,
) -> Gaussian:
    """The Gaussian that fits the features of images as files hold them.

    Published figures are of such files, so images of floating-point numbers are first
    rounded to 8 bits, as `to_bytes` does.

    Args:
      samples: images (N, height, width, channels), floating-point (what is outside of
        `value_range` is clipped) or uint8; or an iterable of arrays of such images, of
        any number each, which are never held all at once.
      features: what a network sees in uint8 images (batch, height, width, channels),
        (batch, d), such as `models.inception.features` makes.
      batch: how many images it sees at once.
      value_range: of images of floating-point numbers, [-1, 1] if left out; see
        `to_bytes`.

    Returns:
      Their mean and covariance, for `fid` or `write_statistics`.

    Raises:
      ValueError: if the samples are no images, or fewer than two.
    """
    kinds.check_function("features", features, "features(images)")
    kinds.check("images, or an iterable of them", samples, (Array, Iterable), "samples")
    return statistics(as_bytes(samples, batch, value_range), features, batch)
