"""The Fréchet distance between two Gaussians.

It is NumPy float64 on the host: a small difference of large traces, which float32 does
not resolve.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bns_jax import kinds
from bns_jax.metrics.checks import check_real

_SLACK = 1e-4
"""How far below zero, of the largest, an eigenvalue may be by rounding to float32."""


class Gaussian(NamedTuple):
    """A mean (d,) and a covariance (d, d), float64."""

    mean: np.ndarray
    covariance: np.ndarray


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), the squared 2-Wasserstein distance.

    The trace of the root is the sum of the singular values of C^(1/2) C'^(1/2), with
    symmetric roots. Unlike a root of the product C C', these are as exact where a
    covariance is singular as elsewhere.

    Args:
      first: a mean (d,) and a covariance (d, d).
      second: another.

    Returns:
      The distance, at least 0.

    Raises:
      ValueError: if their numbers of features differ, or one is no Gaussian.
    """
    (mean, covariance), (other_mean, other_covariance) = map(check, (first, second))
    same_size(mean, other_mean)
    roots = _root(covariance) @ _root(other_covariance)
    shared = np.sum(np.linalg.svd(roots, compute_uv=False))
    apart = np.sum(np.square(mean - other_mean))
    spread = np.trace(covariance) + np.trace(other_covariance)
    return max(float(apart + spread - 2 * shared), 0.0)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric positive root of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -_SLACK * max(values[-1], 0.0):
        raise ValueError(
            "expected a covariance without negative eigenvalues, got eigenvalues from "
            f"{values[0]:.3g} to {values[-1]:.3g}"
        )
    # Of zero, rounding makes an eigenvalue of this size, and the root a larger one.
    noise = len(values) * np.finfo(np.float64).eps * values[-1]
    return (vectors * np.sqrt(np.where(values > noise, values, 0.0))) @ vectors.T


def check(given: Gaussian) -> Gaussian:
    """Checks a mean and a covariance.

    Args:
      given: a mean and a covariance.

    Returns:
      The same in float64, the covariance exactly symmetric.

    Raises:
      ValueError: unless they are (d,) and (d, d), finite, and the covariance symmetric.
      TypeError: if one is no array of numbers.
    """
    kinds.check("a mean and a covariance (metrics.Gaussian)", given, tuple)
    for part in given:
        check_real(part)
    mean, covariance = (np.asarray(part, np.float64) for part in given)
    if mean.ndim != 1 or not mean.size or covariance.shape != 2 * mean.shape:
        raise ValueError(
            "expected a mean of shape (d,) and a covariance of shape (d, d), got "
            f"{mean.shape} and {covariance.shape}"
        )
    if not (np.all(np.isfinite(mean)) and np.all(np.isfinite(covariance))):
        raise ValueError("expected a finite mean and covariance")
    uneven = np.max(np.abs(covariance - covariance.T), initial=0.0)
    if uneven > _SLACK * np.max(np.abs(covariance), initial=0.0):
        raise ValueError(
            "expected a symmetric covariance, got one that is off its transpose by "
            f"{uneven:.3g}"
        )
    return Gaussian(mean, (covariance + covariance.T) / 2)


def same_size(mean: np.ndarray, other: np.ndarray) -> None:
    """Refuses means of different lengths.

    Args:
      mean: (d,).
      other: (d,).

    Raises:
      ValueError: if their lengths differ.
    """
    if len(mean) != len(other):
        raise ValueError(
            "expected statistics of the same features, got "
            f"{len(mean)} and {len(other)} dimensions"
        )
