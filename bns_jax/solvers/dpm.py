"""The methods of DPM-Solver (noise) and DPM-Solver++ (data), multistep and singlestep.

Lu et al., 2022a, Algorithms 1, 2 and section 3.4; Lu et al., 2022b, Algorithms 1, 2.
Both kinds are one family: with z = h for noise and z = -h for data, every step is the
first-order one plus S times a combination of differences of the prediction.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bns_jax import grids
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.base import History, Method
from bns_jax.solvers.options import FEW_STEPS, check_choice, check_order, orders_of
from bns_jax.solvers.prediction import (
    KINDS,
    Kind,
    Step,
    point,
    predict,
    remember,
    steps_on,
)
from bns_jax.typing import Sample, Solver, VelocityField

_HIGHEST_ORDER = 3
_DPM_SOLVER = "Lu et al., 2022, arXiv:2206.00927"
_DPM_SOLVER_PP = "Lu et al., 2022, arXiv:2211.01095"


def _psi_1(z: float) -> float:
    """(e^z - 1) / z - 1."""
    return math.expm1(z) / z - 1.0


def _psi_2(z: float) -> float:
    """(e^z - 1 - z) / z^2 - 1/2."""
    return (math.expm1(z) - z) / z**2 - 0.5


@dataclasses.dataclass(frozen=True)
class DPMMultistep(Method):
    """The multistep methods, "2M" and "3M"; the other options are of `dpm_solver`.

    Attributes:
      points: how many predictions a step interpolates, from 1 to 3.
      prediction: which one.
    """

    points: int = 2
    prediction: Kind = "data"
    lower_order_final: bool | None = None
    euler_at_final: bool = False
    history: History = ()

    kind = "exponential"
    reference = _DPM_SOLVER_PP
    aliases: ClassVar[Mapping[str, str]] = {"order": "points", "kind": "prediction"}

    def __post_init__(self) -> None:
        check_choice("kind", self.prediction, KINDS)

    @property
    def order(self) -> int:
        """2 for "3M" too, whose published formula takes half of its last term."""
        return min(self.points, 2)

    @property
    def description(self) -> str:
        """In one line."""
        name = "DPM-Solver" if self.prediction == "noise" else "DPM-Solver++"
        return f"{name}({self.points}M), multistep, {self.prediction}"

    def algorithm(
        self, nfe: int, scheduler: Scheduler, grid: grids.GridLike | None = None
    ) -> Solver:
        """First-order steps with the differences of the points before.

        Args:
          nfe: evaluations in all.
          scheduler: the path of the model.
          grid: its times, from 0 to 1; uniform if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is below the order, or a time repeats.
        """
        order, nfe = check_order(self.points, _HIGHEST_ORDER, nfe)
        falls, few = self.lower_order_final, nfe < FEW_STEPS
        orders = orders_of(nfe, order, falls, few, self.euler_at_final)
        steps, kind = steps_on(scheduler, grid, nfe), self.prediction

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x, points = x0, remember(scheduler, self.history)
            past = [(at.log_snr, output.of(kind)) for at, output in points]
            for step, k in zip(steps, orders, strict=True):
                output = predict(vf, scheduler, step.start, x)
                past = [*past, (step.start.log_snr, output.of(kind))][-order:]
                more = _multistep_correction(kind, step, past[-k:])
                x = step.first_order(output) + more
            return x

        return solver


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

    Args:
      nfe: evaluations in all, from 0.
      order: of a full step, 1 to 3.

    Returns:
      The order of each step; their sum is nfe.
    """
    if nfe == 0:
        return []
    full, rest = divmod(nfe, order)
    if order == 3 and rest == 0:
        # The published schedule ends 3 evaluations short and takes 2, then 1.
        return [3] * (full - 1) + [2, 1]
    return [order] * full + ([rest] if rest else [])


@dataclasses.dataclass(frozen=True)
class DPMSinglestep(Method):
    """The singlestep methods, "2S" and "3S".

    A step of order k makes k evaluations. One that touches infinite log-SNR makes one,
    and the steps between share the rest. Order 3 is kept where they do not end with a
    step of order 1, which is where they make 2 modulo 3 evaluations.

    Attributes:
      order: from 1 to 3.
      prediction: which one is interpolated.
    """

    order: int = 3
    prediction: Kind = "noise"

    kind = "exponential"
    aliases: ClassVar[Mapping[str, str]] = {"kind": "prediction"}

    def __post_init__(self) -> None:
        check_choice("kind", self.prediction, KINDS)

    @property
    def stages(self) -> int:
        """Evaluations per step."""
        return self.order

    @property
    def reference(self) -> str:
        """Where it is published."""
        return _DPM_SOLVER if self.prediction == "noise" else _DPM_SOLVER_PP

    @property
    def description(self) -> str:
        """In one line."""
        if self.prediction == "noise":
            return f"DPM-Solver-{self.order}, singlestep, noise"
        return f"DPM-Solver++({self.order}S), singlestep, data"

    def algorithm(
        self, nfe: int, scheduler: Scheduler, grid: grids.GridLike | None = None
    ) -> Solver:
        """Steps on a grid of as many as nfe makes of them.

        Args:
          nfe: evaluations in all.
          scheduler: the path of the model.
          grid: its times, from 0 to 1; uniform if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is below the order, too small for ends of infinite log-SNR,
            or a time repeats.
        """
        order, nfe = check_order(self.order, _HIGHEST_ORDER, nfe)
        first, last = (not np.isfinite(scheduler.log_snr(t)) for t in grids.ends(grid))
        inner = nfe - first - last
        if inner < 0:
            raise ValueError(
                f"both ends touch infinite log-SNR: needs nfe >= 2, got {nfe}"
            )
        orders = [1] * first + singlestep_orders(inner, order) + [1] * last
        steps = steps_on(scheduler, grid, len(orders), repeat_last=False)

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x = x0
            for step, k in zip(steps, orders, strict=True):
                x = _single_step(self.prediction, k, step, vf, scheduler, x)
            return x

        return solver


def _single_step(
    kind: Kind, order: int, step: Step, vf: VelocityField, scheduler: Scheduler, x: Any
) -> Any:
    """One step of order 1, 2 (midpoint in log-SNR) or 3 (thirds)."""
    z, scale = step.signed_h(kind), step.scale(kind)
    output = predict(vf, scheduler, step.start, x)
    if order == 1:
        return step.first_order(output)

    def inside(r: float) -> Step:
        """The part of the step up to the fraction r of its log-SNR."""
        log_snr = step.start.log_snr + r * step.h
        t = float(scheduler.log_snr_inverse(log_snr))
        return Step(step.start, point(scheduler, t))

    def difference(part: Step, y: Any) -> Any:
        return predict(vf, scheduler, part.end, y).of(kind) - output.of(kind)

    if order == 2:
        half = inside(1 / 2)
        D = difference(half, half.first_order(output))
        return step.first_order(output) + scale * math.expm1(z) * D
    third, two_thirds = inside(1 / 3), inside(2 / 3)
    D_1 = difference(third, third.first_order(output))
    correction = two_thirds.scale(kind) * 2 * _psi_1(2 / 3 * z) * D_1
    D_2 = difference(two_thirds, two_thirds.first_order(output) + correction)
    return step.first_order(output) + scale * 3 / 2 * _psi_1(z) * D_2
