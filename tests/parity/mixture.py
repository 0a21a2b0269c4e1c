"""A Gaussian mixture, whose denoiser every library is given."""

from __future__ import annotations

import numpy as np

_RNG = np.random.default_rng(0)
CENTRES = _RNG.normal(size=(5, 8))
X0 = _RNG.normal(size=(4, 8))
_STD = 0.3


def data(alpha: float, sigma: float, x: np.ndarray) -> np.ndarray:
    """E[x_1 | x = alpha x_1 + sigma noise] in float64, (batch, 8)."""
    variance = alpha**2 * _STD**2 + sigma**2
    away = x[:, None] - alpha * CENTRES
    log_weights = -np.sum(away**2, axis=-1) / (2 * variance)
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    means = CENTRES + alpha * _STD**2 / variance * away
    return np.einsum("bk,bkd->bd", weights, means)


def velocity(scheduler):
    """The same as a velocity field on the path of a scheduler."""

    def field(t, x):
        alpha, sigma = float(scheduler.alpha(t)), float(scheduler.sigma(t))
        m = data(alpha, sigma, x)
        # On the path both ends follow from m; where sigma is 0 nothing is asked.
        e = (x - alpha * m) / sigma
        return float(scheduler.d_alpha(t)) * m + float(scheduler.d_sigma(t)) * e

    return field
