"""The Gaussian that fits the features of a stream of samples, by NumPy float64."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

from bns_jax import notices
from bns_jax.metrics.checks import check_real
from bns_jax.metrics.frechet import Gaussian, same_size
from bns_jax.typing import Array


class Features(Protocol):
    """What a network sees in a batch of samples."""

    def __call__(self, batch: np.ndarray, /) -> Array:
        """(batch, ...) -> (batch, d); each sample by itself."""


class Moments(NamedTuple):
    """What is kept of the samples seen so far.

    Attributes:
      number: how many they are.
      mean: (d,).
      scatter: (d, d), the sum of the outer products of the deviations from the mean.
    """

    number: int
    mean: np.ndarray
    scatter: np.ndarray


def moments(features: Array) -> Moments:
    """The moments of (n, d) features, n at least 1.

    Args:
      features: (n, d), real numbers.

    Returns:
      The number n, mean and scatter, float64.

    Raises:
      ValueError: if they are not a matrix of finite numbers with at least a row.
    """
    check_real(features)
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not features.size or not np.all(np.isfinite(features)):
        raise ValueError(
            f"expected finite features of shape (n, d), got {features.shape} with "
            f"{np.sum(~np.isfinite(features))} that are not finite"
        )
    mean = np.mean(features, axis=0)
    centred = features - mean
    return Moments(len(features), mean, centred.T @ centred)


def merge(first: Moments, second: Moments) -> Moments:
    """The moments of the union of two sets of samples (Chan, Golub & LeVeque, 1983).

    Args:
      first: of one set.
      second: of another, of as many features.

    Returns:
      The moments of both.

    Raises:
      ValueError: if they are of different numbers of features.
    """
    same_size(first.mean, second.mean)
    number = first.number + second.number
    apart = second.mean - first.mean
    mean = first.mean + apart * (second.number / number)
    between = np.outer(apart, apart) * (first.number * second.number / number)
    return Moments(number, mean, first.scatter + second.scatter + between)


def gaussian(seen: Moments) -> Gaussian:
    """The Gaussian of a sample's mean and unbiased covariance.

    Warns that the covariance is singular where the sample is too small for it.

    Args:
      seen: the moments of at least two samples.

    Returns:
      The mean (d,) and covariance (d, d), float64.

    Raises:
      ValueError: if there are fewer than two samples.
    """
    if seen.number < 2:
        raise ValueError(f"a covariance takes at least 2 samples, got {seen.number}")
    dimensions = len(seen.mean)
    if seen.number <= dimensions:
        notices.warn(
            f"{seen.number} samples in {dimensions} feature dimensions have a singular "
            f"covariance, of rank {seen.number - 1} at most: the Fréchet distance is "
            "too large, and does not compare with one of another number of samples; "
            f"take more than {dimensions} (published FIDs take 50,000)",
        )
    return Gaussian(seen.mean, seen.scatter / (seen.number - 1))


def statistics(
    samples: Array | Iterable[Array], features: Features, batch: int = 64
) -> Gaussian:
    """The Gaussian that fits the features of a stream of samples.

    Args:
      samples: an array (N, ...), or an iterable of arrays (n, ...) of any n, such as a
        generator that never holds them all.
      features: of a batch of samples; always called on `batch` of them, so that it
        compiles once. Where fewer are left it sees the last one again, which is not
        counted.
      batch: how many samples it sees at once.

    Returns:
      Their mean and covariance.

    Raises:
      ValueError: if there are fewer than two samples, or the features of a batch are
        not finite numbers of shape (batch, d).
    """
    if batch < 1:
        raise ValueError(f"expected a batch of at least 1 sample, got {batch}")
    stream = _features(samples, features, batch)
    first = next(stream, None)
    if first is None:
        raise ValueError("a covariance takes at least 2 samples, got none")
    # Merging costs d^2 however few the samples, so it waits for d of them.
    blocks = _regroup(itertools.chain([first], stream), first.shape[1])
    return gaussian(functools.reduce(merge, map(moments, blocks)))


def _features(
    samples: Array | Iterable[Array], features: Features, batch: int
) -> Iterator[np.ndarray]:
    """The features of all samples, a batch at a time."""
    chunks = [samples] if isinstance(samples, Array) else samples
    for chunk in _regroup(chunks, batch):
        fill = np.repeat(chunk[-1:], batch - len(chunk), axis=0)
        found = np.asarray(features(np.concatenate([chunk, fill])))
        if found.ndim != 2 or len(found) != batch:
            raise ValueError(
                f"expected features of shape ({batch}, d), got {found.shape}"
            )
        yield found[: len(chunk)]


def _regroup(parts: Iterable[Array], rows: int) -> Iterator[np.ndarray]:
    """The same rows in the same order, `rows` at a time; then those that are left."""
    held: list[np.ndarray] = []
    missing = rows
    for part in map(np.asarray, parts):
        start = 0
        while start < len(part):
            held.append(part[start : start + missing])
            start += missing
            missing -= len(held[-1])
            if not missing:
                yield np.concatenate(held)
                held, missing = [], rows
    if held:
        yield np.concatenate(held)
