"""Learnable families: differentiable maps from theta to NSParams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bns_jax.ns import NSParams, validate
from bns_jax.scale_time import fold, precondition
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Array


class Family(NamedTuple):
    """A family of solvers.

    Attributes:
      theta: where the search starts, a pytree of floating-point arrays.
      to_params: to_params(theta) -> NSParams over the original field; differentiable.
    """

    theta: Any
    to_params: Callable[[Any], NSParams]


class BNSTheta(NamedTuple):
    """The free numbers of a bespoke non-stationary solver.

    Attributes:
      times: (n - 1,), t_1 .. t_{n-1}; t_0 is pinned.
      a: (n,).
      b: (n (n + 1) / 2,), the lower triangle row by row.
    """

    times: Array
    a: Array
    b: Array


def bns(init: NSParams) -> Family:
    """All non-stationary solvers, starting from `init` (section 3.2).

    theta is the solver itself: a and b as they are, times clipped to [t_0, 1] and
    sorted, which keeps the start exactly, repeated times included.

    Args:
      init: the solver to start from; its number of evaluations and t_0 are kept.

    Raises:
      ValueError: if `init` is no valid solver (see `ns.validate`).
    """
    validate(init)
    n, t_0 = len(init.a), float(init.times[0])
    lower = np.tril_indices(n)

    def to_params(theta: BNSTheta) -> NSParams:
        first = jnp.full((1,), t_0, theta.times.dtype)
        times = jnp.sort(jnp.clip(theta.times, t_0, 1.0))
        b = jnp.zeros((n, n), theta.b.dtype).at[lower].set(theta.b)
        return NSParams(jnp.concatenate([first, times]), theta.a, b)

    theta = BNSTheta(
        *map(jnp.asarray, (init.times[1:], init.a, np.asarray(init.b)[lower]))
    )
    return Family(theta, to_params)


def preconditioned(family: Family, scheduler: Scheduler, sigma_0: float) -> Family:
    """`family` over the field of a wider source (eq. 14), folded to the original one.

    Args:
      family: its members are read as solvers of the preconditioned field.
      scheduler: the path of the model.
      sigma_0: the standard deviation of the source; 1 changes nothing.

    Returns:
      A family over the original field: whoever samples never meets sigma_0.

    Raises:
      ValueError: unless sigma_0 > 0.
    """
    scale_time = precondition(scheduler, sigma_0)
    return Family(family.theta, lambda theta: fold(family.to_params(theta), scale_time))
