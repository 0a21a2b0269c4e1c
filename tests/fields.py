"""Velocity fields whose flows are known in closed form: the oracles of the suite.

They use operators alone, and so run in NumPy and in JAX.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def _xp(*values: Any) -> Any:
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


@dataclasses.dataclass(frozen=True)
class Linear:
    """x' = (rate + 2 slope t) x, so x(t) = x(t_0) exp(g(t) - g(t_0))."""

    rate: float = -0.7
    slope: float = 0.9

    def velocity(self, t, x):
        return (self.rate + 2.0 * self.slope * t) * x

    def flow(self, start, end, x):
        def g(t):
            return self.rate * t + self.slope * t**2

        return x * np.exp(g(end) - g(start))


@dataclasses.dataclass(frozen=True)
class Logistic:
    """x' = g'(t) x (1 - x), so logit x(t) = logit x(t_0) + g(t) - g(t_0)."""

    def velocity(self, t, x):
        return (1.5 + 2.0 * _xp(t, x).cos(3.0 * t)) * x * (1.0 - x)

    def flow(self, start, end, x):
        xp = _xp(start, end, x)

        def g(t):
            return 1.5 * t + 2.0 / 3.0 * xp.sin(3.0 * t)

        return 1.0 / (1.0 + (1.0 / x - 1.0) * xp.exp(g(start) - g(end)))


def wavy(t, x):
    """A nonlinear field without a closed form, mild everywhere."""
    xp = _xp(t, x)
    return xp.sin(2.0 * x + 1.3 * t) + 0.5 * x * xp.cos(3.0 * t)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Data ~ N(mean, std^2 I) on the path of a scheduler; std = 0 is a single point.

    x_t ~ N(alpha mean, v), v = alpha^2 std^2 + sigma^2, and the flow maps quantiles to
    quantiles.
    """

    scheduler: Any
    mean: float = 0.4
    std: float = 0.6

    def variance(self, t):
        alpha, sigma = self.scheduler.alpha(t), self.scheduler.sigma(t)
        return alpha**2 * self.std**2 + sigma**2

    def flow(self, start, end, x):
        stretch = (self.variance(end) / self.variance(start)) ** 0.5
        centred = x - self.scheduler.alpha(start) * self.mean
        return self.scheduler.alpha(end) * self.mean + stretch * centred

    def velocity(self, t, x):
        path = self.scheduler
        alpha, d_alpha = path.alpha(t), path.d_alpha(t)
        half = alpha * d_alpha * self.std**2 + path.sigma(t) * path.d_sigma(t)
        return d_alpha * self.mean + half / self.variance(t) * (x - alpha * self.mean)

    def data(self, t, x):
        """E[x_1 | x_t = x]."""
        alpha = self.scheduler.alpha(t)
        gain = alpha * self.std**2 / self.variance(t)
        return self.mean + gain * (x - alpha * self.mean)

    def epsilon(self, t, x):
        """E[noise | x_t = x]."""
        alpha, sigma = self.scheduler.alpha(t), self.scheduler.sigma(t)
        return sigma / self.variance(t) * (x - alpha * self.mean)

    def score(self, t, x):
        """The gradient of log p_t, of the Gaussian's own density."""
        return -(x - self.scheduler.alpha(t) * self.mean) / self.variance(t)

    def v(self, t, x):
        """alpha noise - sigma data."""
        alpha, sigma = self.scheduler.alpha(t), self.scheduler.sigma(t)
        return alpha * self.epsilon(t, x) - sigma * self.data(t, x)

    def denoiser(self, sigma, x):
        """E[data | data + sigma noise = x], of a model that knows no time."""
        gain = self.std**2 / (self.std**2 + sigma**2)
        return self.mean + gain * (x - self.mean)
