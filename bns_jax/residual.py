"""What is left over of a guess: a conditional mean leaves nothing that is still told.

Of all guesses of the data x1 from x, E[x1 | x] has the least mean square error. So no
function of x lowers it when it is added: the error is orthogonal to x, to the guess,
and to the velocity u, whose slope in a regression of x1 - x0 on u is 1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_MOST, _FEWEST = 512, 16
"""Samples that are looked at, and those that are too few."""


class Observed(NamedTuple):
    """Noised samples at one time, one after another (N, d), float64.

    Attributes:
      data: clean, x1.
      x: alpha x1 + sigma x0.
      velocity: what the field answers about x.
      guess: of the data, as the velocity says it.
      alpha: the scale of the data.
      sigma: that of the noise.
    """

    data: np.ndarray
    x: np.ndarray
    velocity: np.ndarray
    guess: np.ndarray
    alpha: float
    sigma: float


def shares(seen: Observed) -> tuple[float, float]:
    """What the best corrections leave of the error of the guess, each at most 1.

    Args:
      seen: some samples; the first 512 count.

    Returns:
      What stays after the velocity is scaled by one factor; and what stays after it is
      also mixed with x, with the mean of the other samples, and with E[x1 | x] of a
      world that has only these. 1 where the samples are too few to say, or the error
      is not finite.
    """
    data, x, velocity, guess = (values[:_MOST] for values in seen[:4])
    error = data - guess
    if len(data) < _FEWEST or not np.all(np.isfinite(error)) or not np.any(error):
        return 1.0, 1.0
    mean = (np.sum(data, axis=0) - data) / (len(data) - 1)
    others = _among_others(data, x, seen.alpha, seen.sigma)
    return _left(error, velocity), _left(error, velocity, x, mean, others)


def _left(error: np.ndarray, *told: np.ndarray) -> float:
    """The share of an error that a least-squares fit leaves, in root mean square."""
    columns = np.stack([np.ravel(values) for values in told], axis=1)
    columns = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-30)
    wanted = np.ravel(error)
    factors, *_ = np.linalg.lstsq(columns, wanted, rcond=1e-10)
    rest = wanted - columns @ factors
    return float(np.linalg.norm(rest) / np.linalg.norm(wanted))


def _among_others(
    data: np.ndarray, x: np.ndarray, alpha: float, sigma: float
) -> np.ndarray:
    """E[x1 | x] if the data were the given samples save the own one, equally likely."""
    means = alpha * data
    # |x|^2 is the same for all of a row.
    fit = (x @ means.T - 0.5 * np.sum(means**2, axis=1)) / sigma**2
    np.fill_diagonal(fit, -np.inf)
    weights = np.exp(fit - np.max(fit, axis=1, keepdims=True))
    return weights @ data / np.sum(weights, axis=1, keepdims=True)
