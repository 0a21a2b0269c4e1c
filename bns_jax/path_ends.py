"""What a network predicts, read as both ends of the Gaussian path through x (Table 1).

Each prediction and x = alpha x1_hat + sigma x0_hat are two equations for two unknowns:
the clean sample x1_hat and the noise x0_hat.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bns_jax.schedulers import Scheduler
from bns_jax.schedulers.base import LEAST_SIGMA
from bns_jax.typing import Array, Sample, Time, VelocityField, wider

_SIGMA_FLOOR = LEAST_SIGMA
_ALPHA_FLOOR = 1e-5


class Ends(NamedTuple):
    """The two ends of the Gaussian path through x, as a model sees them.

    Attributes:
      data: x1_hat, the expected clean sample.
      noise: x0_hat, the expected noise, of unit variance.
    """

    data: Sample
    noise: Sample


def combine(p: Array, x: Sample, q: Array, y: Sample) -> Sample:
    """The sum p x + q y of two samples.

    Args:
      p: a scalar.
      x: a pytree of arrays.
      q: a scalar of the dtype of p.
      y: a pytree like x.

    Returns:
      The sum, in the dtype of the scalars or wider.
    """

    def leaf(x: Array, y: Array) -> Array:
        wide = wider(jnp.result_type(x), p.dtype)
        x, y = jnp.asarray(x, wide), jnp.asarray(y, wide)
        return p.astype(wide) * x + q.astype(wide) * y

    return jax.tree.map(leaf, x, y)


def divide(x: Sample, scale: Array) -> Sample:
    """The quotient x / scale, like x; computed in the dtype of the scale or wider.

    Args:
      x: a pytree of arrays.
      scale: a scalar.

    Returns:
      x / scale, in the dtypes of x.
    """

    def leaf(x: Array) -> Array:
        wide = wider(x.dtype, scale.dtype)
        return (x.astype(wide) / scale.astype(wide)).astype(x.dtype)

    return jax.tree.map(leaf, x)


def unfloored(noise: Sample, scheduler: Scheduler, t: Array) -> Sample:
    """x0_hat of `_ends_of_data` where sigma_t lies below the floor but for its end.

    On paths like VE's with rho = 7 that is the last tenth of the time, in which the
    velocity is a small sigma_t' times a large noise.

    Args:
      noise: x0_hat of a prediction of the data.
      scheduler: of the path.
      t: scalar time in [0, 1].

    Returns:
      x0_hat by the true sigma_t, like noise.
    """
    sigma = scheduler.sigma(t)
    least = jnp.asarray(scheduler.least_sigma, sigma.dtype)
    ratio = jnp.maximum(sigma, _SIGMA_FLOOR) / jnp.maximum(sigma, least)
    return jax.tree.map(lambda x: ratio.astype(x.dtype) * x, noise)


def _ends_of_epsilon(
    network: VelocityField, scheduler: Scheduler, t: Array, x: Sample, *args: Any
) -> Ends:
    alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
    noise = network(t, x, *args)
    return Ends(combine(1 / alpha, x, -sigma / alpha, noise), noise)


def _ends_of_score(
    network: VelocityField, scheduler: Scheduler, t: Array, x: Sample, *args: Any
) -> Ends:
    sigma = scheduler.sigma(t)

    def epsilon(t: Time, x: Sample, *args: Any) -> Sample:
        score = network(t, x, *args)
        return combine(-sigma, score, jnp.zeros_like(sigma), score)

    return _ends_of_epsilon(epsilon, scheduler, t, x, *args)


def _ends_of_data(
    network: VelocityField, scheduler: Scheduler, t: Array, x: Sample, *args: Any
) -> Ends:
    # At t = 1 both x - alpha x1_hat and sigma vanish; the floor keeps 0 / 0 out.
    alpha, sigma = scheduler.alpha(t), jnp.maximum(scheduler.sigma(t), _SIGMA_FLOOR)
    data = network(t, x, *args)
    return Ends(data, combine(1 / sigma, x, -alpha / sigma, data))


def _ends_of_v(
    network: VelocityField, scheduler: Scheduler, t: Array, x: Sample, *args: Any
) -> Ends:
    alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
    v, squares = network(t, x, *args), alpha**2 + sigma**2
    data = combine(alpha / squares, x, -sigma / squares, v)
    return Ends(data, combine(sigma / squares, x, alpha / squares, v))


def _ends_of_denoiser(
    network: VelocityField, scheduler: Scheduler, t: Array, x: Sample, *args: Any
) -> Ends:
    # A network that is told log(sigma) can be asked neither at infinity nor at 0.
    alpha = jnp.maximum(scheduler.alpha(t), _ALPHA_FLOOR)
    sigma = jnp.maximum(scheduler.sigma(t), _SIGMA_FLOOR)

    def denoise(t: Time, x: Sample, *args: Any) -> Sample:
        return network(sigma / alpha, divide(x, alpha), *args)

    return _ends_of_data(denoise, scheduler, t, x, *args)


FLOORED = ("data", "denoiser")
"""The predictions whose noise is a quotient by sigma_t."""

ENDS_OF = {
    "epsilon": _ends_of_epsilon,
    "data": _ends_of_data,
    "v": _ends_of_v,
    "score": _ends_of_score,
    "denoiser": _ends_of_denoiser,
}
"""Kind of prediction -> f(network, scheduler, t, x, *args) -> Ends."""
