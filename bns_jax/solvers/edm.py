"""EDM's samplers: Euler and Heun under the variance-exploding scheduler (eq. 16-17)."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Literal

import numpy as np

from bns_jax import grids, scalars
from bns_jax.ns import NSParams
from bns_jax.scale_time import between, under
from bns_jax.schedulers import Scheduler, ve
from bns_jax.solvers.base import Method
from bns_jax.solvers.options import check_choice
from bns_jax.typing import Sample, Solver, VelocityField


@dataclasses.dataclass(frozen=True)
class EDM(Method):
    """The method of `edm`, whose options these are."""

    method: Literal["euler", "heun"] = "heun"
    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float = 7.0

    kind = "scale-time"
    reference = "Karras et al., 2022, arXiv:2206.00364"

    def __post_init__(self) -> None:
        check_choice("method", self.method, ("euler", "heun"))

    @property
    def order(self) -> int:
        """Of convergence."""
        return 1 if self.method == "euler" else 2

    @property
    def stages(self) -> int:
        """Evaluations per step."""
        return 1 if self.method == "euler" else 2

    @property
    def extra(self) -> int:
        """Heun's method makes one in the last step."""
        return 0 if self.method == "euler" else -1

    @property
    def description(self) -> str:
        """In one line."""
        return f"{self.method.capitalize()} under VE on the Karras grid"

    def algorithm(
        self, nfe: int, scheduler: Scheduler, grid: grids.GridLike | None = None
    ) -> Solver:
        """Steps in the time of VE, under the change of scheduler to the model's.

        Args:
          nfe: evaluations in all.
          scheduler: the path of the model.
          grid: times of the scheduler; Karras's if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is even and the method Heun's, or the grid does not fall in
            noise from step to step.
        """
        nfe = scalars.nfe(nfe)
        if self.method == "heun" and nfe % 2 == 0:
            raise ValueError(
                "EDM's Heun makes two evaluations a step and one in the last: nfe must "
                f"be odd and positive, got {nfe}"
            )
        steps = (nfe - self.extra) // self.stages
        target, r = self._times(steps, scheduler, grid)

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x = x0
            for i, (r_now, r_next) in enumerate(itertools.pairwise(r), start=1):
                h, u = r_next - r_now, vf(r_now, x)
                euler = x + h * u
                # At the last time sigma is 0 and the field of VE has no value.
                if self.method == "euler" or i == steps:
                    x = euler
                else:
                    x = x + h * 0.5 * (u + vf(r_next, euler))
            return x

        change = between(scheduler, target)
        return under(solver, change, start=float(r[0]), end=float(r[-1]))

    def _times(
        self, steps: int, scheduler: Scheduler, grid: grids.GridLike | None
    ) -> tuple[Scheduler, np.ndarray]:
        """The VE scheduler, and the grid, given in the model's time, in that of VE."""
        low, high = grids.level_range(scheduler, self.sigma_min, self.sigma_max)
        if grid is None:
            grid = grids.karras(scheduler, low, high, self.rho)
        times = grids.times(grid, steps)
        largest = float(np.exp(-scheduler.log_snr(times[0])))
        target = ve(largest if np.isfinite(largest) else high)
        r = np.asarray(target.snr_inverse(scheduler.snr(times))).clip(0.0, 1.0)
        if np.any(np.diff(r)[:-1] == 0) or (r[-2] == r[-1] and r[-1] == 1):
            raise ValueError(
                "EDM needs distinct times, all but the first of less noise than "
                f"sigma_max = {high:g} where the first has infinitely much, got "
                f"{times!s:.60}"
            )
        return target, r


def edm(
    nfe: int,
    scheduler: Scheduler,
    *,
    method: Literal["euler", "heun"] = EDM.method,
    sigma_min: float | None = EDM.sigma_min,
    sigma_max: float | None = EDM.sigma_max,
    rho: float = EDM.rho,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """EDM's deterministic samplers (Karras et al., 2022, Algorithm 1; eq. 16-17).

    Args:
      nfe: evaluations; Heun's method makes two a step and one in the last.
      scheduler: the path of the model; the change to VE is folded away.
      method: "euler" or "heun", the default.
      sigma_min: last noise-to-signal ratio above 0; as of `grids.karras` if left out.
      sigma_max: the first one, also where a given grid starts at pure noise; if left
        out the scheduler's own, 80 where that is infinite. The first time is where the
        model has it, not 0 (`grids.karras`).
      rho: curvature of the Karras grid, 7 if left out.
      grid: times of `scheduler`; the Karras grid if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if nfe is even for Heun, or the grid is not sorted in [0, 1] or
        repeats a time.
    """
    sampler = EDM(method, sigma_min, sigma_max, rho)
    return sampler.build(nfe, scheduler, grid)
