"""PNDM: DDIM with the weights of classical methods on the noise (Liu et al., 2022).

Adams-Bashforth of order 4 as `ipndm`, with a start of its own: one step of Heun's
method ("heun", which public samplers call PLMS, or skip_prk_steps), or three of the
classical Runge-Kutta method ("runge_kutta", as published).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from bns_jax import grids, scalars
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.base import Method
from bns_jax.solvers.ipndm import WEIGHTS, transfer
from bns_jax.solvers.options import check_choice
from bns_jax.solvers.prediction import Prediction, Step, point, predict, steps_on
from bns_jax.typing import Sample, Solver, VelocityField

_EXTRA = {"heun": 1, "runge_kutta": 9}
"""Evaluations beyond one a step, by the start."""

_FIRST = {"heun": 1, "runge_kutta": 3}
"""Steps of the start."""


@dataclasses.dataclass(frozen=True)
class PNDM(Method):
    """The method of `pndm`, whose option this is."""

    start: Literal["heun", "runge_kutta"] = "heun"

    order = 3
    kind = "exponential"
    reference = "Liu et al., 2022, arXiv:2202.09778"

    def __post_init__(self) -> None:
        check_choice("start", self.start, tuple(_EXTRA))

    @property
    def description(self) -> str:
        """In one line."""
        start = "PLMS: 4 points, from a step of Heun"
        if self.start == "runge_kutta":
            start = "4 points, from three steps of Runge-Kutta"
        return f"PNDM, {start}"

    @property
    def extra(self) -> int:
        """The further evaluations of the start."""
        return _EXTRA[self.start]

    def algorithm(
        self, nfe: int, scheduler: Scheduler, grid: grids.GridLike | None = None
    ) -> Solver:
        """The steps of the start, then DDIM's with the weighted noise of 4 points.

        Args:
          nfe: evaluations in all.
          scheduler: the path of the model.
          grid: its times, from 0 to 1; uniform if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is too small for the start, or a time repeats.
        """
        nfe, first = scalars.nfe(nfe), _FIRST[self.start]
        if nfe - self.extra <= first:
            # No evaluation may be at the end, where the field may have no value.
            least = first + self.extra + 1
            raise ValueError(
                f'PNDM with start="{self.start}" needs nfe >= {least}, got {nfe}'
            )
        steps = steps_on(scheduler, grid, nfe - self.extra)
        begin = {"heun": _heun, "runge_kutta": _runge_kutta}[self.start]

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x = x0
            past: list[Any] = []
            for i, step in enumerate(steps):
                output = predict(vf, scheduler, step.start, x)
                past = [output.e, *past][:4]
                if i < first:
                    x = begin(vf, scheduler, step, output)
                else:
                    x = transfer(step, output, WEIGHTS[len(past)], past)
            return x

        return solver


def _heun(
    vf: VelocityField, scheduler: Scheduler, step: Step, output: Prediction
) -> Any:
    """One step with the mean of the noise at both its ends."""
    end = predict(vf, scheduler, step.end, step.first_order(output))
    return transfer(step, output, (1 / 2, 1 / 2), (output.e, end.e))


def _runge_kutta(
    vf: VelocityField, scheduler: Scheduler, step: Step, output: Prediction
) -> Any:
    """One step of the classical method, whose middle is that of the times."""
    middle = point(scheduler, (step.start.t + step.end.t) / 2)
    half = Step(step.start, middle)
    second = predict(vf, scheduler, middle, half.first_order(output)).e
    third = predict(vf, scheduler, middle, transfer(half, output, (1.0,), (second,))).e
    fourth = predict(vf, scheduler, step.end, transfer(step, output, (1.0,), (third,)))
    weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    return transfer(step, output, weights, (output.e, second, third, fourth.e))


def pndm(
    nfe: int,
    scheduler: Scheduler,
    *,
    start: Literal["heun", "runge_kutta"] = PNDM.start,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """PNDM, one evaluation a step but for its start (Liu et al., 2022, Algorithm 2).

    Its weights are those of equal steps, whatever the grid, as `ipndm`'s.

    Args:
      nfe: evaluations; one more than the steps with start="heun", nine more with
        "runge_kutta".
      scheduler: the path of the model.
      start: "heun", the default, makes the first step with two evaluations, as public
        samplers do (PLMS); "runge_kutta" the first three with four each, as published.
      grid: of so many steps; uniform in time if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if nfe leaves no step behind the start, or the grid is not sorted in
        [0, 1] or repeats a time.
    """
    return PNDM(start).build(nfe, scheduler, grid)
