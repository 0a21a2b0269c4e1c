"""What a learnable family of solvers is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from bns_jax.ns import NSParams


class Family(NamedTuple):
    """A family of solvers.

    Attributes:
      theta: where the search starts, a pytree of floating-point arrays.
      to_params: to_params(theta) -> NSParams over the original field; differentiable.
        Where it is hashable, and equal to that of another family of the same kind, a
        search in the second family runs the program compiled for the first.
    """

    theta: Any
    to_params: Callable[[Any], NSParams]
