"""A family over the field of a wider source (eq. 14)."""

from __future__ import annotations

from bns_jax import kinds
from bns_jax.families.base import Family
from bns_jax.scale_time import fold, precondition
from bns_jax.schedulers import Scheduler


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
    scale_time = precondition(scheduler, sigma_0)
    return Family(family.theta, lambda theta: fold(family.to_params(theta), scale_time))
