"""A model in closed form: the exact velocity of a mixture of Gaussians."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.models import labels
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Time
from bns_jax.velocity import Ends, between_ends, time_like


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture:
    """Data around labelled centres: N(c_k, width^2 I), all of equal weight.

    On a Gaussian path x_t = alpha x_1 + sigma x_0 the posterior of the centre is a
    softmax, and the ends E[x_1 | x_t], E[x_0 | x_t] are those of one Gaussian, in the
    posterior's mean. Nothing is learned, so solvers meet a field without model error.

    Attributes:
      centres: (K, *shape).
      labels: (K,), the class of each centre.
      width: the standard deviation around a centre.
      scheduler: of the path.
    """

    centres: jax.Array
    labels: jax.Array
    width: float = dataclasses.field(metadata={"static": True})
    scheduler: Scheduler = dataclasses.field(metadata={"static": True})

    @classmethod
    def around(
        cls,
        centres: np.ndarray,
        labels: np.ndarray,
        width: float,
        scheduler: Scheduler,
    ) -> Mixture:
        """The mixture around NumPy centres."""
        return cls(jnp.asarray(centres), jnp.asarray(labels), width, scheduler)

    def conditional(self, t: Time, x: jax.Array, label: jax.Array) -> jax.Array:
        """The velocity of one class: x (batch, *shape), label (batch,).

        Of a class that has no centre it is nan.
        """
        labels.check_shape(label, (len(x),))
        return self._velocity(t, x, label[:, None] == self.labels[None, :])

    def check_args(self, args: tuple[Any, ...]) -> None:
        """Checks the labels of all samples; see `conditioning.check`."""
        labels.check_args(args, int(np.max(self.labels)) + 1, null=False)

    def unconditional(self, t: Time, x: jax.Array, label: jax.Array) -> jax.Array:
        """The velocity of all classes together."""
        return self._velocity(t, x, jnp.ones((len(x), len(self.labels)), bool))

    def _velocity(self, t: Time, x: jax.Array, allowed: jax.Array) -> jax.Array:
        t = time_like(t, x)
        alpha, sigma = self.scheduler.alpha(t), self.scheduler.sigma(t)
        variance = (alpha * self.width) ** 2 + sigma**2
        centres = self.centres.astype(x.dtype).reshape(len(self.labels), -1)
        flat = x.reshape(len(x), -1)
        # |x - alpha c|^2 without the |x|^2 that all centres share.
        inner = jnp.dot(flat, centres.T, precision=jax.lax.Precision.HIGHEST)
        norms = jnp.sum(centres**2, axis=1)
        logits = (alpha * inner - 0.5 * alpha**2 * norms[None, :]) / variance
        posterior = jax.nn.softmax(jnp.where(allowed, logits, -jnp.inf), axis=1)
        mean = jnp.dot(posterior, centres, precision=jax.lax.Precision.HIGHEST)
        residual = (flat - alpha * mean) / variance
        data = mean + alpha * self.width**2 * residual
        velocity = between_ends(Ends(data, sigma * residual), self.scheduler, t)
        return velocity.reshape(x.shape)
