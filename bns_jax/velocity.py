"""From what a network predicts to the velocity of its sampling ODE (Table 1, eq. 5).

Whatever a network predicts, its output and x together name both ends of the Gaussian
path, x = alpha x1_hat + sigma x0_hat, and the velocity is then

    u_t(x) = alpha_t' x1_hat + sigma_t' x0_hat,

which is eq. 5 with the coefficients of Table 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bns_jax import conditioning
from bns_jax.checks import check_floating, check_like
from bns_jax.guidance import guided as guided
from bns_jax.path_ends import ENDS_OF, FLOORED, combine, unfloored
from bns_jax.path_ends import Ends as Ends
from bns_jax.path_ends import divide as divide
from bns_jax.pytree import as_pytree
from bns_jax.schedulers import Scheduler, check_scheduler, ve
from bns_jax.typing import Array, Sample, Time, VelocityField


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
        """The velocity u_t(x), like x.

        Args:
          t: scalar time in [0, 1], from noise to data.
          x: a batch of samples, a pytree of floating-point arrays.
          *args: conditioning, handed on.

        Returns:
          u_t(x), of the shape and dtype of x (eq. 5).

        Raises:
          ValueError: if a field returns another tree or shape than that of x, or x is
            of no floating-point dtype.
        """
        t = time_like(t, x)
        ends = self.ends(t, x, *args)
        if self.prediction in FLOORED:
            ends = ends._replace(noise=unfloored(ends.noise, self.scheduler, t))
        velocity = between_ends(ends, self.scheduler, t)
        return jax.tree.map(lambda u, x: u.astype(x.dtype), velocity, x)

    def check_args(self, args: tuple[Any, ...]) -> None:
        """Lets the network check the conditioning; see `conditioning.check`.

        Args:
          args: the conditioning of all samples, concrete.

        Raises:
          ValueError: if the network refuses it.
        """
        conditioning.check(self.network, args)

    def ends(self, t: Time, x: Sample, *args: Any) -> Ends:
        """The model's clean sample and noise at (t, x), in at least float32.

        Args:
          t: scalar time in [0, 1].
          x: a batch of samples, a pytree of arrays.
          *args: conditioning, for the network.

        Returns:
          x1_hat and x0_hat, trees and shapes as of x.

        Raises:
          ValueError: if the network returns another tree or shape, or x is of no
            floating-point dtype.
        """
        t = time_like(t, x)
        ends = ENDS_OF[self.prediction]

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

    Returns:
      The field vf(t, x, *args) -> velocity like x, whose leaves are those of fn.

    Raises:
      ValueError: if fn cannot be called, or the scheduler is none; from the field, if
        fn returns another tree or shape than that of x, or x is of no floating-point
        dtype.
    """
    check_scheduler(scheduler)
    return ModelVelocity(as_pytree(fn), scheduler, "epsilon")


def from_data(fn: Callable[..., Sample], scheduler: Scheduler) -> ModelVelocity:
    """The velocity of an x-prediction network.

    Args:
      fn: fn(t, x, *args) -> the expected clean sample, like x; t as of `from_epsilon`.
      scheduler: of the path that it was trained on.

    Returns:
      The field vf(t, x, *args) -> velocity like x, whose leaves are those of fn.

    Raises:
      ValueError: if fn cannot be called, or the scheduler is none; from the field, if
        fn returns another tree or shape than that of x, or x is of no floating-point
        dtype.
    """
    check_scheduler(scheduler)
    return ModelVelocity(as_pytree(fn), scheduler, "data")


def from_v(fn: Callable[..., Sample], scheduler: Scheduler) -> ModelVelocity:
    """The velocity of a v-prediction network (Salimans and Ho, 2022).

    Args:
      fn: fn(t, x, *args) -> alpha_t noise - sigma_t data, like x.
      scheduler: of the path that it was trained on.

    Returns:
      The field vf(t, x, *args) -> velocity like x, whose leaves are those of fn.

    Raises:
      ValueError: if fn cannot be called, or the scheduler is none; from the field, if
        fn returns another tree or shape than that of x, or x is of no floating-point
        dtype.
    """
    check_scheduler(scheduler)
    return ModelVelocity(as_pytree(fn), scheduler, "v")


def from_score(fn: Callable[..., Sample], scheduler: Scheduler) -> ModelVelocity:
    """The velocity of a score-prediction network (Song et al., 2021).

    Undefined where alpha_t = 0, as that of an eps-prediction.

    Args:
      fn: fn(t, x, *args) -> the gradient of log p_t at x, -noise / sigma_t, like x.
      scheduler: of the path that it was trained on.

    Returns:
      The field vf(t, x, *args) -> velocity like x, whose leaves are those of fn.

    Raises:
      ValueError: if fn cannot be called, or the scheduler is none; from the field, if
        fn returns another tree or shape than that of x, or x is of no floating-point
        dtype.
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

    Returns:
      The field vf(t, x, *args) -> velocity like x, whose leaves are those of fn.

    Raises:
      ValueError: if fn cannot be called, or the scheduler is none; from the field, if
        fn returns another tree or shape than that of x, or x is of no floating-point
        dtype.
    """
    check_scheduler(scheduler, optional=True)
    return ModelVelocity(as_pytree(fn), scheduler or ve(), "denoiser")


def between_ends(ends: Ends, scheduler: Scheduler, t: Array) -> Sample:
    """The velocity alpha_t' x1_hat + sigma_t' x0_hat of a path (eq. 5).

    Args:
      ends: x1_hat and x0_hat.
      scheduler: of the path.
      t: scalar time in [0, 1].

    Returns:
      The velocity, in the dtype of t or wider.
    """
    d_alpha, d_sigma = scheduler.d_alpha(t), scheduler.d_sigma(t)
    return combine(d_alpha, ends.data, d_sigma, ends.noise)


def time_like(t: Time, x: Sample) -> Array:
    """Time as a JAX array of the dtype of x, or float32 where that has 16 bits.

    Args:
      t: scalar time.
      x: a pytree of floating-point arrays.

    Returns:
      t as a float64 array if x has a float64 leaf, else as float32.

    Raises:
      TypeError: if a leaf of x is no array of numbers.
      ValueError: if one is of no floating-point dtype.
    """
    check_floating("x", x)
    dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(x)]
    dtype = jnp.float64 if jnp.float64 in dtypes else jnp.float32
    return jnp.asarray(t, dtype)
