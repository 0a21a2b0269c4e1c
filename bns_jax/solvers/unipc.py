"""UniPC: predictor and corrector, one evaluation a step (Zhao et al., 2023).

The corrector reuses the evaluation that the next step makes anyway.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from bns_jax import grids
from bns_jax.ns import NSParams, from_solver
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.prediction import (
    KINDS,
    History,
    Kind,
    Prediction,
    Step,
    check_choice,
    check_order,
    orders_of,
    points,
    predict,
    remember,
    steps_of,
)
from bns_jax.typing import Sample, Solver, VelocityField

_HIGHEST_ORDER = 3


def unipc_algorithm(
    nfe: int,
    scheduler: Scheduler,
    order: int,
    *,
    kind: Kind = "data",
    variant: Literal["bh1", "bh2"] = "bh2",
    lower_order_final: bool | None = None,
    grid: grids.GridLike | None = None,
    history: History = (),
) -> Solver:
    """UniPC as a plain algorithm."""
    order, nfe = check_order(order, _HIGHEST_ORDER, nfe)
    check_choice("kind", kind, KINDS)
    check_choice("variant", variant, ("bh1", "bh2"))
    orders = orders_of(nfe, order, lower_order_final, by_default=True)
    laid = points(scheduler, grid, nfe)

    def algorithm(vf: VelocityField, x0: Sample) -> Sample:
        x, last = x0, None
        past = [
            (at.log_snr, seen.of(kind)) for at, seen in remember(scheduler, history)
        ]
        for step, k in zip(steps_of(laid), orders, strict=True):
            seen = predict(vf, scheduler, step.start, x)
            y = seen.of(kind)
            if last is not None:
                # The step before, corrected by what the model sees at its end.
                step_before, seen_before, used = last
                new = (step.start.log_snr, y)
                x = step_before.first_order(seen_before) + _combine(
                    kind, variant, step_before, used, new
                )
                seen = _moved(seen, step, x, kind)
            past = [*past, (step.start.log_snr, y)][-order:]
            used = past[-k:]
            x = step.first_order(seen) + _combine(kind, variant, step, used, None)
            last = step, seen, used
        return x

    return algorithm


def _moved(seen: Prediction, step: Step, x: Any, kind: Kind) -> Prediction:
    """The same network output, read at the corrected x."""
    at = step.start
    if kind == "data":
        return Prediction(seen.m, (x - at.alpha * seen.m) / at.sigma)
    return Prediction((x - at.sigma * seen.e) / at.alpha, seen.e)


def _combine(
    kind: Kind,
    variant: str,
    step: Step,
    past: list[tuple[float, Any]],
    new: tuple[float, Any] | None,
) -> Any:
    """S B(h) sum_k rho_k D_k / r_k (eq. 3 and 9 of the UniPC paper).

    The differences D_k are taken against the prediction at the step's start, at the
    fractions r_k of its log-SNR: negative for steps before, 1 for the new evaluation.
    """
    z, scale = step.signed_h(kind), step.scale(kind)
    finite = [(log_snr, y) for log_snr, y in past if np.isfinite(log_snr)]
    if z == 0 or not np.isfinite(z) or not finite:
        return 0.0
    log_snr_0, y_0 = finite[-1]
    used = finite[:-1][::-1] + ([new] if new is not None else [])
    if not used:
        return 0.0
    r = np.array([(log_snr - log_snr_0) / step.h for log_snr, _ in used])
    B = z if variant == "bh1" else math.expm1(z)
    if len(used) == 1:
        # The published choice where one condition is left.
        rho = np.array([0.5])
    else:
        conditions = np.arange(len(used))
        rho = np.linalg.solve(r ** conditions[:, None], _moments(z, len(used)) / B)
    total = 0.0
    for rho_k, r_k, (_, y) in zip(rho, r, used, strict=True):
        total = total + (rho_k / r_k) * (y - y_0)
    return scale * B * total


def _moments(z: float, count: int) -> np.ndarray:
    """K! z phi_{k+1}(z) for k = 1 .. count, phi_{k+1} = (phi_k - 1 / k!) / z."""
    phi, factorial, moments = math.expm1(z) / z - 1.0, 1.0, []
    for k in range(1, count + 1):
        factorial *= k
        moments.append(phi * factorial)
        phi = phi / z - 1.0 / (factorial * (k + 1))
    return np.array(moments)


def unipc(
    nfe: int,
    scheduler: Scheduler,
    order: int = 2,
    *,
    kind: Kind = "data",
    variant: Literal["bh1", "bh2"] = "bh2",
    lower_order_final: bool | None = None,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """UniPC (Zhao et al., 2023), predictor and corrector, one evaluation a step.

    Args:
      nfe: steps, at least the order.
      scheduler: the path of the model.
      order: p, from 1 to 3; its corrector makes the method converge with order
        p + 1. The first steps are of lower order.
      kind: which prediction is interpolated.
      variant: B(h) = h ("bh1") or e^h - 1 ("bh2").
      lower_order_final: whether the order falls to 1 at the end; if left out it does,
        whatever the number of steps, as in the paper and in diffusers.
      grid: of nfe steps; uniform in time if left out.

    Raises:
      ValueError: if the order is out of range or above nfe, or the grid is not sorted
        in [0, 1] or repeats a time.
    """
    algorithm = unipc_algorithm(
        nfe,
        scheduler,
        order,
        kind=kind,
        variant=variant,
        lower_order_final=lower_order_final,
        grid=grid,
    )
    return from_solver(algorithm, nfe)
