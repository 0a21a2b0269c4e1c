"""PNDM: DDIM with the weights of classical methods on the noise (Liu et al., 2022).

Adams-Bashforth of order 4 as `ipndm`, with a start of its own: one step of Heun's
method ("heun", which public samplers call PLMS, or skip_prk_steps), or three of the
classical Runge-Kutta method ("runge_kutta", as published).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from bns_jax import grids, scalars
from bns_jax.ns import NSParams, from_solver
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.ipndm import WEIGHTS
from bns_jax.solvers.prediction import (
    Prediction,
    Step,
    check_choice,
    point,
    points,
    predict,
    steps_of,
)
from bns_jax.typing import Sample, Solver, VelocityField

EXTRA = {"heun": 1, "runge_kutta": 9}
"""Evaluations beyond one a step, by the start."""

_STARTING = {"heun": 1, "runge_kutta": 3}


def pndm_algorithm(
    nfe: int,
    scheduler: Scheduler,
    *,
    start: Literal["heun", "runge_kutta"] = "heun",
    grid: grids.GridLike | None = None,
) -> Solver:
    """PNDM as a plain algorithm."""
    check_choice("start", start, tuple(EXTRA))
    nfe = scalars.count("nfe", nfe)
    steps = nfe - EXTRA[start]
    if steps <= _STARTING[start]:
        # No evaluation may be at the end, where the field may have no value.
        least = _STARTING[start] + EXTRA[start] + 1
        raise ValueError(f'PNDM with start="{start}" needs nfe >= {least}, got {nfe}')
    laid = points(scheduler, grid, steps)
    first = {"heun": _heun, "runge_kutta": _runge_kutta}[start]

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x = x0
        past: list[Any] = []
        for i, step in enumerate(steps_of(laid)):
            seen = predict(vf, scheduler, step.start, x)
            past = [seen.e, *past][:4]
            if i < _STARTING[start]:
                x = first(vf, scheduler, step, seen)
            else:
                x = _transfer(step, seen, zip(WEIGHTS[len(past)], past, strict=True))
        return x

    return algorithm


def _transfer(
    step: Step, seen: Prediction, weighted: Iterable[tuple[float, Any]]
) -> Any:
    """DDIM's step with a mean of predictions of the noise in place of its own.

    Where alpha is 0 all of x is noise, and the step is DDIM's.
    """
    x = step.first_order(seen)
    if step.start.alpha == 0:
        return x
    mixed = sum(weight * e for weight, e in weighted)
    ratio = step.end.alpha / step.start.alpha
    return x + (step.end.sigma - ratio * step.start.sigma) * (mixed - seen.e)


def _heun(vf: VelocityField, scheduler: Scheduler, step: Step, seen: Prediction) -> Any:
    """One step with the mean of the noise at both its ends."""
    end = predict(vf, scheduler, step.end, step.first_order(seen))
    return _transfer(step, seen, [(1 / 2, seen.e), (1 / 2, end.e)])


def _runge_kutta(
    vf: VelocityField, scheduler: Scheduler, step: Step, seen: Prediction
) -> Any:
    """One step of the classical method, whose middle is that of the times."""
    middle = point(scheduler, (step.start.t + step.end.t) / 2)
    half = Step(step.start, middle)
    second = predict(vf, scheduler, middle, half.first_order(seen)).e
    third = predict(vf, scheduler, middle, _transfer(half, seen, [(1.0, second)])).e
    fourth = predict(vf, scheduler, step.end, _transfer(step, seen, [(1.0, third)])).e
    weights = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    evaluations = (seen.e, second, third, fourth)
    return _transfer(step, seen, zip(weights, evaluations, strict=True))


def pndm(
    nfe: int,
    scheduler: Scheduler,
    *,
    start: Literal["heun", "runge_kutta"] = "heun",
    grid: grids.GridLike | None = None,
) -> NSParams:
    """PNDM (Liu et al., 2022), one evaluation a step but for its start.

    Its weights are those of equal steps, whatever the grid, as `ipndm`'s.

    Args:
      nfe: evaluations; one more than the steps with start="heun", nine more with
        "runge_kutta".
      scheduler: the path of the model.
      start: "heun" makes the first step with two evaluations, as public samplers do
        (PLMS); "runge_kutta" the first three with four each, as published.
      grid: of so many steps; uniform in time if left out.

    Raises:
      ValueError: if nfe leaves no step behind the start, or the grid is not sorted in
        [0, 1] or repeats a time.
    """
    return from_solver(pndm_algorithm(nfe, scheduler, start=start, grid=grid), nfe)
