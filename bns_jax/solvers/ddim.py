"""DDIM: exponential Euler, for noise and for data alike."""

from __future__ import annotations

import dataclasses

from bns_jax import grids
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.base import Method
from bns_jax.solvers.prediction import predict, steps_on
from bns_jax.typing import Sample, Solver, VelocityField


@dataclasses.dataclass(frozen=True)
class DDIM(Method):
    """DDIM: x' = alpha' m + sigma' e."""

    order = 1
    kind = "exponential"
    reference = "Song et al., 2021, arXiv:2010.02502"
    description = "DDIM, exponential Euler"

    def algorithm(
        self, nfe: int, scheduler: Scheduler, grid: grids.GridLike | None = None
    ) -> Solver:
        """One prediction for each step, kept over all of it.

        Args:
          nfe: evaluations in all.
          scheduler: the path of the model.
          grid: its times, from 0 to 1; uniform if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is no whole number from 1, or a time repeats.
        """
        steps = steps_on(scheduler, grid, nfe)

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x = x0
            for step in steps:
                x = step.first_order(predict(vf, scheduler, step.start, x))
            return x

        return solver


def ddim(
    nfe: int, scheduler: Scheduler, *, grid: grids.GridLike | None = None
) -> NSParams:
    """DDIM, of order 1: exponential Euler (Song et al., 2021, eq. 12 with sigma_t = 0).

    The same for eps- and for x-prediction: both keep one prediction over a step.

    Args:
      nfe: steps.
      scheduler: the path of the model.
      grid: of nfe steps; uniform in time if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if the grid is not sorted in [0, 1] or repeats a time.
    """
    return DDIM().build(nfe, scheduler, grid)
