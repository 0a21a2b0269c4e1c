"""UniPC: predictor and corrector, one evaluation a step (Zhao et al., 2023).

The corrector reuses the evaluation that the next step makes anyway.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from bns_jax import grids
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.base import History, Method
from bns_jax.solvers.options import check_choice, check_order, orders_of
from bns_jax.solvers.prediction import (
    KINDS,
    Kind,
    Prediction,
    Step,
    predict,
    remember,
    steps_on,
)
from bns_jax.typing import Sample, Solver, VelocityField

_HIGHEST_ORDER = 3

Evaluation: TypeAlias = tuple[float, Any]
"""Where the model was asked, by its log-SNR, and the prediction there."""


@dataclasses.dataclass(frozen=True)
class UniPC(Method):
    """The method of `unipc`; the other options are of that function.

    Attributes:
      p: how many predictions the predictor interpolates, from 1 to 3.
      prediction: which one.
    """

    p: int = 2
    prediction: Kind = "data"
    variant: Literal["bh1", "bh2"] = "bh2"
    lower_order_final: bool | None = None
    history: History = ()

    kind = "exponential"
    reference = "Zhao et al., 2023, arXiv:2302.04867"
    aliases: ClassVar[Mapping[str, str]] = {"order": "p", "kind": "prediction"}

    def __post_init__(self) -> None:
        check_choice("kind", self.prediction, KINDS)
        check_choice("variant", self.variant, ("bh1", "bh2"))

    @property
    def order(self) -> int:
        """One more than the predictor's, by the corrector."""
        return self.p + 1

    @property
    def description(self) -> str:
        """In one line."""
        B = {"bh1": "B1", "bh2": "B2"}[self.variant]
        return f"UniPC-{self.p}, {self.prediction}, {B}"

    def algorithm(
        self, nfe: int, scheduler: Scheduler, grid: grids.GridLike | None = None
    ) -> Solver:
        """Each step is made again when the model has been asked at its end.

        Args:
          nfe: evaluations in all.
          scheduler: the path of the model.
          grid: its times, from 0 to 1; uniform if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is below the order, or a time repeats.
        """
        p, nfe = check_order(self.p, _HIGHEST_ORDER, nfe)
        orders = orders_of(nfe, p, self.lower_order_final, by_default=True)
        steps, kind = steps_on(scheduler, grid, nfe), self.prediction

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x, last, points = x0, None, remember(scheduler, self.history)
            past = [(at.log_snr, output.of(kind)) for at, output in points]
            for step, k in zip(steps, orders, strict=True):
                output = predict(vf, scheduler, step.start, x)
                new = step.start.log_snr, output.of(kind)
                if last is not None:
                    x = _step(kind, self.variant, *last, [new])
                    output = _reread(output, step, x, kind)
                past = [*past, new][-p:]
                last = step, output, past[-k:]
                x = _step(kind, self.variant, *last)
            return x

        return solver


def _step(
    kind: Kind,
    variant: str,
    step: Step,
    output: Prediction,
    past: Sequence[Evaluation],
    new: Sequence[Evaluation] = (),
) -> Any:
    """The predictor's step, or with the new evaluation at its end the corrector's."""
    return step.first_order(output) + _combine(kind, variant, step, past, new)


def _reread(output: Prediction, step: Step, x: Any, kind: Kind) -> Prediction:
    """The same network output, read at the sample x of the corrector."""
    at = step.start
    if kind == "data":
        return Prediction(output.m, (x - at.alpha * output.m) / at.sigma)
    return Prediction((x - at.sigma * output.e) / at.alpha, output.e)


def _combine(
    kind: Kind,
    variant: str,
    step: Step,
    past: Sequence[Evaluation],
    new: Sequence[Evaluation],
) -> Any:
    """S B(h) sum_k rho_k D_k / r_k (eq. 3 and 9 of the UniPC paper).

    The differences D_k are taken against the prediction at the step's start, at the
    fractions r_k of its log-SNR: negative for steps before, 1 for the new evaluation.
    """
    z = step.signed_h(kind)
    finite = [(log_snr, y) for log_snr, y in past if np.isfinite(log_snr)]
    others = [*finite[:-1][::-1], *new]
    if z == 0 or not np.isfinite(z) or not finite or not others:
        return 0.0
    log_snr_0, y_0 = finite[-1]
    r = np.array([(log_snr - log_snr_0) / step.h for log_snr, _ in others])
    B = z if variant == "bh1" else math.expm1(z)
    total = 0.0
    for rho_k, r_k, (_, y) in zip(_weights(r, z, B), r, others, strict=True):
        total = total + (rho_k / r_k) * (y - y_0)
    return step.scale(kind) * B * total


def _weights(r: np.ndarray, z: float, B: float) -> np.ndarray:
    """The rho_k by which the differences meet as many conditions of order."""
    if len(r) == 1:
        # The published choice where one condition is left.
        return np.array([0.5])
    powers = np.arange(len(r))
    return np.linalg.solve(r ** powers[:, None], _moments(z, len(r)) / B)


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
    order: int = UniPC.p,
    *,
    kind: Kind = UniPC.prediction,
    variant: Literal["bh1", "bh2"] = UniPC.variant,
    lower_order_final: bool | None = UniPC.lower_order_final,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """UniPC, predictor and corrector, one evaluation a step (Zhao et al., 2023).

    Args:
      nfe: steps, at least the order.
      scheduler: the path of the model.
      order: p, from 1 to 3, 2 if left out; its corrector makes the method converge
        with order p + 1. The first steps are of lower order.
      kind: which prediction is interpolated, that of the data if left out.
      variant: B(h) = h ("bh1") or e^h - 1 ("bh2", the default).
      lower_order_final: whether the order falls to 1 at the end; if left out it does,
        whatever the number of steps, as in the paper and in diffusers.
      grid: of nfe steps; uniform in time if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if the order is out of range or above nfe, or the grid is not sorted
        in [0, 1] or repeats a time.
    """
    method = UniPC(order, kind, variant, lower_order_final)
    return method.build(nfe, scheduler, grid)
