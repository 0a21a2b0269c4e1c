"""DPM-Solver (noise) and DPM-Solver++ (data), multistep and singlestep.

Lu et al., 2022a, Algorithms 1, 2 and section 3.4; Lu et al., 2022b, Algorithms 1, 2.
Both kinds are one family: with z = h for noise and z = -h for data, every step is the
first-order one plus S times a combination of differences of the prediction.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from bns_jax import grids
from bns_jax.ns import NSParams, from_solver
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.prediction import (
    FEW_STEPS,
    KINDS,
    History,
    Kind,
    Step,
    check_choice,
    check_order,
    orders_of,
    point,
    points,
    predict,
    remember,
    steps_of,
)
from bns_jax.typing import Sample, Solver, VelocityField

_HIGHEST_ORDER = 3


def _psi_1(z: float) -> float:
    """(e^z - 1) / z - 1."""
    return math.expm1(z) / z - 1.0


def _psi_2(z: float) -> float:
    """(e^z - 1 - z) / z^2 - 1/2."""
    return (math.expm1(z) - z) / z**2 - 0.5


def dpm_multistep_algorithm(
    nfe: int,
    scheduler: Scheduler,
    order: int,
    *,
    kind: Kind,
    lower_order_final: bool | None = None,
    euler_at_final: bool = False,
    grid: grids.GridLike | None = None,
    history: History = (),
) -> Solver:
    """The multistep methods ("2M", "3M") as a plain algorithm.

    Args:
      nfe: steps.
      scheduler: the path of the model.
      order: from 1 to 3.
      kind: which prediction is interpolated.
      lower_order_final: whether the last steps are of order 2, then 1; if left out,
        below 15 steps.
      euler_at_final: whether the last step is of order 1 in any case.
      grid: of nfe steps; uniform if left out.
      history: points before the grid; without them the first steps are of lower order.
    """
    check_choice("kind", kind, KINDS)
    order, nfe = check_order(order, _HIGHEST_ORDER, nfe)
    few = nfe < FEW_STEPS
    orders = orders_of(nfe, order, lower_order_final, few, euler_at_final)
    laid = points(scheduler, grid, nfe)

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        past = [
            (at.log_snr, seen.of(kind)) for at, seen in remember(scheduler, history)
        ]
        x = x0
        for step, k in zip(steps_of(laid), orders, strict=True):
            seen = predict(vf, scheduler, step.start, x)
            past = [*past, (step.start.log_snr, seen.of(kind))][-order:]
            x = step.first_order(seen) + _multistep_correction(kind, step, past[-k:])
        return x

    return algorithm


def _multistep_correction(kind: Kind, step: Step, past: list[tuple[float, Any]]) -> Any:
    """What the steps before add to the first-order step."""
    z, scale = step.signed_h(kind), step.scale(kind)
    finite = [(log_snr, y) for log_snr, y in past if np.isfinite(log_snr)]
    if z == 0 or not np.isfinite(z) or len(finite) < 2:
        return 0.0
    (log_snr_1, y_1), (log_snr_0, y_0) = finite[-2:]
    r_0 = (log_snr_0 - log_snr_1) / step.h
    D_10 = (y_0 - y_1) / r_0
    if len(finite) == 2:
        return scale * 0.5 * math.expm1(z) * D_10
    log_snr_2, y_2 = finite[-3]
    r_1 = (log_snr_1 - log_snr_2) / step.h
    D_11 = (y_1 - y_2) / r_1
    D_1 = D_10 + r_0 / (r_0 + r_1) * (D_10 - D_11)
    # As in every implementation; twice this, the derivative, would give order 3.
    D_2 = (D_10 - D_11) / (r_0 + r_1)
    return scale * (_psi_1(z) * D_1 + _psi_2(z) * D_2)


def singlestep_orders(nfe: int, order: int) -> list[int]:
    """Orders of the steps that spend nfe evaluations (Lu et al., 2022a, D.3).

    As many steps of the full order as fit, then what is left: [3, 3, 2] for 8.
    """
    if nfe == 0:
        return []
    full, rest = divmod(nfe, order)
    if order == 3 and rest == 0:
        # The published schedule ends 3 evaluations short and takes 2, then 1.
        return [3] * (full - 1) + [2, 1]
    return [order] * full + ([rest] if rest else [])


def dpm_singlestep_algorithm(
    nfe: int,
    scheduler: Scheduler,
    order: int,
    *,
    kind: Kind,
    grid: grids.GridLike | None = None,
) -> Solver:
    """The singlestep methods ("2S", "3S") as a plain algorithm.

    A step of order k makes k evaluations. One that touches infinite log-SNR makes one,
    and the steps between share the rest. Order 3 is kept where they do not end with a
    step of order 1, which is where they make 2 modulo 3 evaluations.

    Args:
      nfe: evaluations in all.
      scheduler: the path of the model.
      order: from 1 to 3.
      kind: which prediction is interpolated.
      grid: of as many steps as nfe makes of them; uniform if left out.
    """
    check_choice("kind", kind, KINDS)
    order, nfe = check_order(order, _HIGHEST_ORDER, nfe)
    first, last = (not np.isfinite(scheduler.log_snr(t)) for t in grids.ends(grid))
    inner = nfe - first - last
    if inner < 0:
        raise ValueError(f"both ends touch infinite log-SNR: needs nfe >= 2, got {nfe}")
    orders = [1] * first + singlestep_orders(inner, order) + [1] * last
    laid = points(scheduler, grid, len(orders), repeat_last=False)

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x = x0
        for step, k in zip(steps_of(laid), orders, strict=True):
            x = _single_step(kind, k, step, vf, scheduler, x)
        return x

    return algorithm


def _single_step(
    kind: Kind, order: int, step: Step, vf: VelocityField, scheduler: Scheduler, x: Any
) -> Any:
    """One step of order 1, 2 (midpoint in log-SNR) or 3 (thirds)."""
    z, scale = step.signed_h(kind), step.scale(kind)
    seen = predict(vf, scheduler, step.start, x)
    if order == 1:
        return step.first_order(seen)

    def inside(r: float) -> Step:
        """The part of the step up to the fraction r of its log-SNR."""
        log_snr = step.start.log_snr + r * step.h
        t = float(scheduler.log_snr_inverse(log_snr))
        return Step(step.start, point(scheduler, t))

    def difference(part: Step, y: Any) -> Any:
        return predict(vf, scheduler, part.end, y).of(kind) - seen.of(kind)

    if order == 2:
        half = inside(1 / 2)
        D = difference(half, half.first_order(seen))
        return step.first_order(seen) + scale * math.expm1(z) * D
    third, two_thirds = inside(1 / 3), inside(2 / 3)
    D_1 = difference(third, third.first_order(seen))
    correction = two_thirds.scale(kind) * 2 * _psi_1(2 / 3 * z) * D_1
    D_2 = difference(two_thirds, two_thirds.first_order(seen) + correction)
    return step.first_order(seen) + scale * 3 / 2 * _psi_1(z) * D_2


def dpm_solver(
    nfe: int,
    scheduler: Scheduler,
    order: int = 3,
    *,
    steps: Literal["single", "multi"] = "single",
    lower_order_final: bool | None = None,
    euler_at_final: bool = False,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """DPM-Solver (Lu et al., 2022a): exponential integrators of the noise prediction.

    Args:
      nfe: evaluations in all.
      scheduler: the path of the model.
      order: from 1 (DDIM) to 3.
      steps: "single" makes `order` evaluations a step, "multi" one.
      lower_order_final: of "multi", whether the last two steps are of order 2 and 1; if
        left out, below 15 steps, as in diffusers.
      euler_at_final: of "multi", whether the last step is of order 1 in any case.
      grid: uniform in time if left out. "multi" takes nfe steps; how many "single"
        takes follows from nfe and order.

    Raises:
      ValueError: if the order is out of range or above nfe, the grid is not sorted in
        [0, 1] or repeats a time, or an option of "multi" is given to "single".
    """
    algorithm = _algorithm(steps, lower_order_final, euler_at_final)
    return from_solver(algorithm(nfe, scheduler, order, kind="noise", grid=grid), nfe)


def dpm_solver_pp(
    nfe: int,
    scheduler: Scheduler,
    order: int = 2,
    *,
    steps: Literal["single", "multi"] = "multi",
    lower_order_final: bool | None = None,
    euler_at_final: bool = False,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """DPM-Solver++ (Lu et al., 2022b): exponential integrators of the data prediction.

    Order 2 in "multi" is "2M", in "single" "2S". "3M" is the published formula, which
    takes half of its last term and so converges with order 2.

    Args:
      nfe: evaluations in all.
      scheduler: the path of the model.
      order: from 1 (DDIM) to 3.
      steps: "single" makes `order` evaluations a step, "multi" one.
      lower_order_final: of "multi", whether the last two steps are of order 2 and 1; if
        left out, below 15 steps, as in diffusers.
      euler_at_final: of "multi", whether the last step is of order 1 in any case.
      grid: uniform in time if left out. "multi" takes nfe steps; how many "single"
        takes follows from nfe and order.

    Raises:
      ValueError: if the order is out of range or above nfe, the grid is not sorted in
        [0, 1] or repeats a time, or an option of "multi" is given to "single".
    """
    algorithm = _algorithm(steps, lower_order_final, euler_at_final)
    return from_solver(algorithm(nfe, scheduler, order, kind="data", grid=grid), nfe)


def _algorithm(
    steps: str, lower_order_final: bool | None, euler_at_final: bool
) -> Callable[..., Solver]:
    """The algorithm of that kind, with the options of its last steps set."""
    check_choice("steps", steps, ("single", "multi"))
    if steps == "multi":
        return functools.partial(
            dpm_multistep_algorithm,
            lower_order_final=lower_order_final,
            euler_at_final=euler_at_final,
        )
    if lower_order_final is not None or euler_at_final:
        raise ValueError(
            'lower_order_final and euler_at_final are options of steps="multi", got '
            'steps="single", whose orders follow from nfe'
        )
    return dpm_singlestep_algorithm
