"""iPNDM: DDIM with Adams-Bashforth weights on the noise (Zhang and Chen, 2023)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bns_jax import grids
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.base import History, Method
from bns_jax.solvers.options import check_order
from bns_jax.solvers.prediction import Prediction, Step, predict, remember, steps_on
from bns_jax.typing import Sample, Solver, VelocityField

# The weights of equal steps, the newest first; the method uses them on any grid.
WEIGHTS = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@dataclasses.dataclass(frozen=True)
class IPNDM(Method):
    """The method of `ipndm`, whose options these are."""

    order: int = 4
    history: History = ()

    kind = "exponential"
    reference = "Zhang and Chen, 2023, arXiv:2204.13902"

    @property
    def description(self) -> str:
        """In one line."""
        return f"iPNDM, {self.order} points"

    def algorithm(
        self, nfe: int, scheduler: Scheduler, grid: grids.GridLike | None = None
    ) -> Solver:
        """DDIM's step with the weighted noise of the last `order` points.

        Args:
          nfe: evaluations in all.
          scheduler: the path of the model.
          grid: its times, from 0 to 1; uniform if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is below the order, or a time repeats.
        """
        order, nfe = check_order(self.order, max(WEIGHTS), nfe)
        steps = steps_on(scheduler, grid, nfe)

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x, past = x0, [out.e for _, out in remember(scheduler, self.history)][::-1]
            for step in steps:
                output = predict(vf, scheduler, step.start, x)
                past = [output.e, *past][:order]
                x = transfer(step, output, WEIGHTS[len(past)], past)
            return x

        return solver


def transfer(
    step: Step, output: Prediction, weights: Sequence[float], noises: Sequence[Any]
) -> Any:
    """DDIM's step with a weighted mean of predictions of the noise for its own.

    Where alpha is 0 all of x is noise, and the step is DDIM's.

    Args:
      step: from alpha, sigma to alpha', sigma'.
      output: the prediction at its start.
      weights: of the noises; their sum is 1.
      noises: predictions e of the noise, each like x.

    Returns:
      x at the end of the step.
    """
    x = step.first_order(output)
    if step.start.alpha == 0:
        return x
    mean = sum(w * e for w, e in zip(weights, noises, strict=True))
    # alpha' (rho' - rho), rho = sigma / alpha: DDIM's weight of the noise.
    ratio = step.end.alpha / step.start.alpha
    return x + (step.end.sigma - ratio * step.start.sigma) * (mean - output.e)


def ipndm(
    nfe: int,
    scheduler: Scheduler,
    order: int = IPNDM.order,
    *,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """IPNDM, one evaluation a step (Zhang and Chen, 2023; Liu et al., 2022).

    Its weights are those of equal steps, whatever the grid: a method of order above 1
    only where the grid is uniform in sigma / alpha.

    Args:
      nfe: steps, at least the order.
      scheduler: the path of the model.
      order: from 1 (DDIM) to 4; the first steps are of lower order. 4 if left out.
      grid: of nfe steps; uniform in time if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if the order is out of range or above nfe, or the grid is not sorted
        in [0, 1] or repeats a time.
    """
    return IPNDM(order).build(nfe, scheduler, grid)
