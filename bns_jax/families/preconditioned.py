"""A family over the field of a wider source (eq. 14)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from bns_jax import kinds, scalars
from bns_jax.families.base import Family
from bns_jax.ns import NSParams
from bns_jax.scale_time import fold, precondition
from bns_jax.schedulers import Scheduler, check_scheduler


def preconditioned(family: Family, scheduler: Scheduler, sigma_0: float) -> Family:
    """`family` over the field of a wider source (eq. 14), folded to the original one.

    The guarantee of a `constrained` family would then be one for the preconditioned
    field; to keep it for the original one, constrain the result of this function.

    Args:
      family: its members are read as solvers of the preconditioned field.
      scheduler: the path of the model.
      sigma_0: the factor by which sigma_t grows, and with it the standard deviation of
        the source; 1 changes nothing.

    Returns:
      A family over the original field: whoever samples never meets sigma_0.

    Raises:
      ValueError: unless sigma_0 > 0.
    """
    kinds.check("a family, such as families.bns(solver)", family, Family)
    check_scheduler(scheduler)
    sigma_0 = scalars.positive("sigma_0", sigma_0)
    return Family(family.theta, _Folded(family.to_params, scheduler, sigma_0))


@dataclasses.dataclass(frozen=True)
class _Folded:
    """The members of a family over a wider source, as solvers of the model."""

    __name__ = "to_params"
    to_params: Callable[[Any], NSParams]
    scheduler: Scheduler
    sigma_0: float

    def __call__(self, theta: Any) -> NSParams:
        scale_time = precondition(self.scheduler, self.sigma_0)
        return fold(self.to_params(theta), scale_time)
