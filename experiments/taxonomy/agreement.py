"""Two runs of one solver: the algorithm itself, and its three arrays (Theorem 3.2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import bns_jax
from bns_jax import schedulers, solvers
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Array, Time

_MEANS = np.random.default_rng(0).normal(size=(3, 4))
_STD = 0.3
_SAMPLES = 8
# The derivative of sigma diverges at t = 1 under VP: the field stands still before.
_LAST_TIME = 0.999

SCHEDULERS: dict[str, Scheduler] = {
    "cond_ot": schedulers.cond_ot(),
    "cosine": schedulers.cosine(),
    "vp": schedulers.vp(),
    "ve": schedulers.ve(),
    "alphas_cumprod": schedulers.from_alphas_cumprod(
        np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    ),
    "shifted": schedulers.shifted(3.0),
}
"""One of each kind; the discrete-time one has DDPM's thousand steps."""


class Difference(NamedTuple):
    """How far two runs are apart, relative to the largest entry of the sample.

    Attributes:
      scheduler: its name.
      solver: its name.
      nfe: evaluations.
      relative: the difference.
    """

    scheduler: str
    solver: str
    nfe: int
    relative: float


@dataclasses.dataclass(frozen=True)
class MixtureField:
    """A mixture of Gaussians on the path of a scheduler, in closed form.

    A component N(mean, std^2 I) has the variance v = (alpha std)^2 + sigma^2 at time t
    and the velocity alpha' mean + (log v)' / 2 (x - alpha mean); the field mixes these
    by the components' probabilities at x.
    """

    scheduler: Scheduler

    def velocity(self, t: Time, x: Array) -> Array:
        """The velocity of x (samples, 4) at t, in the array namespace of x."""
        xp = jnp if isinstance(x, jax.Array) else np
        path, t = self.scheduler, xp.minimum(t, _LAST_TIME)
        alpha, sigma = path.alpha(t), path.sigma(t)
        d_alpha, d_sigma = path.d_alpha(t), path.d_sigma(t)
        variance = (alpha * _STD) ** 2 + sigma**2
        rate = (alpha * d_alpha * _STD**2 + sigma * d_sigma) / variance
        squares = xp.sum((x[:, None] - alpha * _MEANS[None]) ** 2, axis=-1)
        nearest = xp.min(squares, axis=-1, keepdims=True)
        weights = xp.exp((nearest - squares) / (2.0 * variance))
        mean = weights @ _MEANS / xp.sum(weights, axis=-1, keepdims=True)
        return d_alpha * mean + rate * (x - alpha * mean)


def differences(names: Sequence[str], nfes: Sequence[int]) -> list[Difference]:
    """Every solver on every scheduler, at the evaluations that it exists for.

    Needs `jax_enable_x64`; compiles one program per scheduler and number.
    """
    found = []
    for label, scheduler in SCHEDULERS.items():
        noise = np.random.default_rng(0).normal(size=(_SAMPLES, _MEANS.shape[1]))
        x0, field = float(scheduler.sigma(0.0)) * noise, MixtureField(scheduler)
        for name in names:
            for nfe in nfes:
                relative = difference(name, nfe, field, x0)
                if relative is not None:
                    found.append(Difference(label, name, nfe, relative))
    return found


def difference(
    name: str, nfe: int, field: MixtureField, x0: np.ndarray
) -> float | None:
    """How far one solver's runs are apart; None if it has no member of so many."""
    try:
        algorithm = solvers.algorithm(name, nfe, field.scheduler)
    except ValueError:
        return None
    params = bns_jax.from_solver(algorithm, nfe)
    direct = algorithm(field.velocity, x0)
    sampled = bns_jax.sample(params, field.velocity, x0)
    return float(np.max(np.abs(sampled - direct)) / np.max(np.abs(direct)))


def largest(found: Sequence[Difference]) -> Difference:
    """The one that is furthest apart; one that is not a number comes first.

    Raises:
      ValueError: if there is none.
    """
    if not found:
        raise ValueError("none of the solvers exists at these numbers of evaluations")
    return max(found, key=lambda d: np.nan_to_num(d.relative, nan=np.inf))


def lines(found: Sequence[Difference], nfes: Sequence[int]) -> list[list[str]]:
    """A line per solver of each scheduler, a column per number of evaluations."""
    rows: dict[tuple[str, str], dict[int, str]] = {}
    for label, name, nfe, relative in found:
        rows.setdefault((label, name), {})[nfe] = f"{relative:.1e}"
    return [[*key, *(row.get(nfe, "-") for nfe in nfes)] for key, row in rows.items()]
