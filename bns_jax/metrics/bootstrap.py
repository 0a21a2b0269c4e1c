"""How sure a mean over samples is."""

from __future__ import annotations

import functools

import numpy as np

from bns_jax import scalars
from bns_jax.metrics.checks import check_real

_MOST_KEPT = 2**23


def bootstrap_interval(
    values: np.ndarray,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile interval of a mean (Efron, 1979).

    Args:
      values: (N,), one per sample, such as those of `distill.evaluate`.
      confidence: in (0, 1).
      resamples: how many sets of N values are drawn with replacement.
      seed: of the draws.

    Returns:
      Its lower and upper end.

    Raises:
      ValueError: if `values` is not a vector of at least one finite number, or
        `confidence` or `resamples` is out of its range.
    """
    check_real(values)
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size or not np.all(np.isfinite(values)):
        raise ValueError(
            f"expected a vector of finite values, got shape {values.shape} with "
            f"{np.sum(~np.isfinite(values))} that are not"
        )
    resamples = scalars.count("resamples", resamples)
    confidence = scalars.fraction("confidence", confidence)
    if confidence in (0.0, 1.0):
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    is_kept = isinstance(seed, int) and resamples * values.size <= _MOST_KEPT
    counts = (_same if is_kept else _drawn)(values.size, resamples, seed)
    means = counts @ values / values.size
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _drawn(size: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, size), how often each value is in each set."""
    counts = np.random.default_rng(seed).multinomial(
        size, np.full(size, 1 / size), size=resamples
    )
    # A product of integers and floats would convert them each time.
    return counts.astype(np.float64)


# Tables ask for many intervals of as many values, and to draw takes most of one.
_same = functools.lru_cache(maxsize=1)(_drawn)
