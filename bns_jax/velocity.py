"""From what a network predicts to the velocity of its sampling ODE (Table 1, eq. 5).

Whatever a network predicts, its output and x together name both ends of the Gaussian
path, x = alpha x1_hat + sigma x0_hat, and the velocity is then

    u_t(x) = alpha_t' x1_hat + sigma_t' x0_hat,

which is eq. 5 with the coefficients of Table 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bns_jax import conditioning
from bns_jax.checks import check_floating, check_like
from bns_jax.guidance import guided as guided
from bns_jax.pytree import as_pytree
from bns_jax.schedulers import Scheduler, check_scheduler, ve
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ModelVelocity:
    """The velocity field of a network that predicts noise, data or a mixture of both.

    A pytree: the network's weights are its leaves where `network` is one.

    Attributes:
      network: network(t, x, *args) -> prediction, like x.
      scheduler: of the path that the network was trained on.
      prediction: "epsilon", "score", "data", "v" or "denoiser".
    """

    network: VelocityField
    scheduler: Scheduler = dataclasses.field(metadata={"static": True})
    prediction: str = dataclasses.field(metadata={"static": True})

    def __call__(self, t: Time, x: Sample, *args: Any) -> Sample:
        """The velocity u_t(x), like x."""
        t = time_like(t, x)
        ends = self.ends(t, x, *args)
        if self.prediction in _FLOORED:
            ends = ends._replace(noise=_unfloored(ends.noise, self.scheduler, t))
        velocity = between_ends(ends, self.scheduler, t)
        return jax.tree.map(lambda u, x: u.astype(x.dtype), velocity, x)

    def check_args(self, args: tuple[Any, ...]) -> None:
        """Lets the network check the conditioning; see `conditioning.check`."""
        conditioning.check(self.network, args)

    def ends(self, t: Time, x: Sample, *args: Any) -> Ends:
        """The model's clean sample and noise at (t, x), in at least float32."""
        t = time_like(t, x)
        ends = _PREDICTIONS[self.prediction]

        def network(t: Time, x: Sample, *args: Any) -> Sample:
            output = self.network(t, x, *args)
            check_like(output, x, f"the network of {self.prediction} prediction")
            return output

        return ends(network, self.scheduler, t, x, *args)


def from_epsilon(fn: Callable[..., Sample], scheduler: Scheduler) -> ModelVelocity:
    """The velocity of an eps-prediction (DDPM) network.

    Undefined where alpha_t = 0: pure noise tells such a network nothing of the data.
    Under the VP scheduler it diverges at t = 1, like sigma_t'.

    Args:
      fn: fn(t, x, *args) -> predicted noise of unit variance, like x; t is one
        scalar from 0 (noise) to 1 (data). Inside, hand a network whose time runs the
        other way 1 - t, and one of discrete steps `scheduler.timestep(t)`, with the
        scheduler of `from_alphas_cumprod`.
      scheduler: of the path that it was trained on.
    """
    check_scheduler(scheduler)
    return ModelVelocity(as_pytree(fn), scheduler, "epsilon")


def from_data(fn: Callable[..., Sample], scheduler: Scheduler) -> ModelVelocity:
    """The velocity of an x-prediction network; fn(t, x, *args) -> clean sample."""
    check_scheduler(scheduler)
    return ModelVelocity(as_pytree(fn), scheduler, "data")


def from_v(fn: Callable[..., Sample], scheduler: Scheduler) -> ModelVelocity:
    """The velocity of a v-prediction network (Salimans and Ho, 2022).

    Args:
      fn: fn(t, x, *args) -> alpha_t noise - sigma_t data, like x.
      scheduler: of the path that it was trained on.
    """
    check_scheduler(scheduler)
    return ModelVelocity(as_pytree(fn), scheduler, "v")


def from_score(fn: Callable[..., Sample], scheduler: Scheduler) -> ModelVelocity:
    """The velocity of a score-prediction network (Song et al., 2021).

    Undefined where alpha_t = 0, as that of an eps-prediction.

    Args:
      fn: fn(t, x, *args) -> the gradient of log p_t at x, -noise / sigma_t, like x.
      scheduler: of the path that it was trained on.
    """
    check_scheduler(scheduler)
    return ModelVelocity(as_pytree(fn), scheduler, "score")


def from_denoiser(
    fn: Callable[..., Sample], scheduler: Scheduler | None = None
) -> ModelVelocity:
    """The velocity of a denoiser D(sigma, x) (EDM: Karras et al., 2022).

    Args:
      fn: fn(sigma, x, *args) -> clean sample, where x is data plus noise of standard
        deviation sigma.
      scheduler: of the path to sample on, ve() if left out; ve(rho=7) meets small
        noise levels better. A denoiser knows no time: on any path it is asked at
        sigma_t / alpha_t and x / alpha_t, with sigma and alpha held above 1e-5.
    """
    check_scheduler(scheduler, optional=True)
    return ModelVelocity(as_pytree(fn), scheduler or ve(), "denoiser")


def between_ends(ends: Ends, scheduler: Scheduler, t: Array) -> Sample:
    """alpha_t' x1_hat + sigma_t' x0_hat, the velocity on the path of `scheduler`."""
    d_alpha, d_sigma = scheduler.d_alpha(t), scheduler.d_sigma(t)
    return _combine(d_alpha, ends.data, d_sigma, ends.noise)


def time_like(t: Time, x: Sample) -> Array:
    """Time as a JAX array of the dtype of x, or float32 where that has 16 bits."""
    check_floating("x", x)
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(x)]
    dtype = jnp.float64 if jnp.float64 in dtypes else jnp.float32
    return jnp.asarray(t, dtype)


def divide(x: Sample, scale: Array) -> Sample:
    """The quotient x / scale, like x; computed in the dtype of the scale or wider."""

    def leaf(x: Array) -> Array:
        wide = wider(x.dtype, scale.dtype)
        return (x.astype(wide) / scale.astype(wide)).astype(x.dtype)

    return jax.tree.map(leaf, x)


def _combine(p: Array, x: Sample, q: Array, y: Sample) -> Sample:
    """The sum p x + q y, in the dtype of the scalars or wider."""

    def leaf(x: Array, y: Array) -> Array:
        wide = wider(jnp.result_type(x), p.dtype)
        x, y = jnp.asarray(x, wide), jnp.asarray(y, wide)
        return p.astype(wide) * x + q.astype(wide) * y

    return jax.tree.map(leaf, x, y)


def _ends_of_epsilon(
    network: VelocityField, scheduler: Scheduler, t: Array, x: Sample, *args: Any
) -> Ends:
    alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
    noise = network(t, x, *args)
    return Ends(_combine(1 / alpha, x, -sigma / alpha, noise), noise)


def _ends_of_score(
    network: VelocityField, scheduler: Scheduler, t: Array, x: Sample, *args: Any
) -> Ends:
    sigma = scheduler.sigma(t)

    def epsilon(t: Time, x: Sample, *args: Any) -> Sample:
        score = network(t, x, *args)
        return _combine(-sigma, score, jnp.zeros_like(sigma), score)

    return _ends_of_epsilon(epsilon, scheduler, t, x, *args)


def _ends_of_data(
    network: VelocityField, scheduler: Scheduler, t: Array, x: Sample, *args: Any
) -> Ends:
    # At t = 1 both x - alpha x1_hat and sigma vanish; the floor keeps 0 / 0 out.
    alpha, sigma = scheduler.alpha(t), jnp.maximum(scheduler.sigma(t), _SIGMA_FLOOR)
    data = network(t, x, *args)
    return Ends(data, _combine(1 / sigma, x, -alpha / sigma, data))


def _unfloored(noise: Sample, scheduler: Scheduler, t: Array) -> Sample:
    """The noise of `_ends_of_data` where sigma_t lies below the floor but for its end.

    On paths like VE's with rho = 7 that is the last tenth of the time, in which the
    velocity is a small sigma_t' times a large noise.
    """
    sigma = scheduler.sigma(t)
    least = jnp.asarray(scheduler.least_sigma, sigma.dtype)
    ratio = jnp.maximum(sigma, _SIGMA_FLOOR) / jnp.maximum(sigma, least)
    return jax.tree.map(lambda x: ratio.astype(x.dtype) * x, noise)


def _ends_of_v(
    network: VelocityField, scheduler: Scheduler, t: Array, x: Sample, *args: Any
) -> Ends:
    alpha, sigma = scheduler.alpha(t), scheduler.sigma(t)
    v, squares = network(t, x, *args), alpha**2 + sigma**2
    data = _combine(alpha / squares, x, -sigma / squares, v)
    return Ends(data, _combine(sigma / squares, x, alpha / squares, v))


def _ends_of_denoiser(
    network: VelocityField, scheduler: Scheduler, t: Array, x: Sample, *args: Any
) -> Ends:
    # A network that is told log(sigma) can be asked neither at infinity nor at 0.
    alpha = jnp.maximum(scheduler.alpha(t), _ALPHA_FLOOR)
    sigma = jnp.maximum(scheduler.sigma(t), _SIGMA_FLOOR)

    def denoise(t: Time, x: Sample, *args: Any) -> Sample:
        return network(sigma / alpha, divide(x, alpha), *args)

    return _ends_of_data(denoise, scheduler, t, x, *args)


_FLOORED = ("data", "denoiser")
_PREDICTIONS = {
    "epsilon": _ends_of_epsilon,
    "data": _ends_of_data,
    "v": _ends_of_v,
    "score": _ends_of_score,
    "denoiser": _ends_of_denoiser,
}
