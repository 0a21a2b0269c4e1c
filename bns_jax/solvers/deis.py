"""DEIS: exponential Adams-Bashforth on the noise prediction (Zhang and Chen, 2023).

With rho = sigma / alpha the ODE reads d(x / alpha) = e d rho. DEIS integrates the
polynomial through the last predictions exactly: a polynomial in t ("tab"), or in
log rho ("log_rho").
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import numpy as np

from bns_jax import grids
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.base import History, Method
from bns_jax.solvers.options import FEW_STEPS, check_choice, check_order, orders_of
from bns_jax.solvers.prediction import PathPoint, Step, predict, remember, steps_on
from bns_jax.typing import Sample, Solver, VelocityField

_HIGHEST_ORDER = 4


@functools.cache
def _quadrature() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of Gauss-Legendre on [-1, 1]."""
    return np.polynomial.legendre.leggauss(64)


@dataclasses.dataclass(frozen=True)
class DEIS(Method):
    """The method of `deis`, whose options these are."""

    order: int = 3
    variable: Literal["tab", "log_rho"] = "tab"
    lower_order_final: bool | None = None
    history: History = ()

    kind = "exponential"
    reference = "Zhang and Chen, 2023, arXiv:2204.13902"

    def __post_init__(self) -> None:
        check_choice("variable", self.variable, ("tab", "log_rho"))

    @property
    def description(self) -> str:
        """In one line."""
        variable = {"tab": "time", "log_rho": "log rho"}[self.variable]
        return f"DEIS, {self.order} points, polynomial in {variable}"

    def algorithm(
        self, nfe: int, scheduler: Scheduler, grid: grids.GridLike | None = None
    ) -> Solver:
        """DDIM's step and the integral of what the points before add.

        Args:
          nfe: evaluations in all.
          scheduler: the path of the model.
          grid: its times, from 0 to 1; uniform if left out.

        Returns:
          algorithm(vf, x0) -> x1.

        Raises:
          ValueError: if nfe is below the order, or a time repeats.
        """
        order, nfe = check_order(self.order, _HIGHEST_ORDER, nfe)
        orders = orders_of(nfe, order, self.lower_order_final, nfe < FEW_STEPS)
        steps = steps_on(scheduler, grid, nfe)

        def solver(vf: VelocityField, x0: Sample) -> Sample:
            x = x0
            past = [(at, output.e) for at, output in remember(scheduler, self.history)]
            for step, k in zip(steps, orders, strict=True):
                output = predict(vf, scheduler, step.start, x)
                past = [*past, (step.start, output.e)][-order:]
                more = _correction(scheduler, self.variable, step, past[-k:])
                x = step.first_order(output) + more
            return x

        return solver


def _correction(
    scheduler: Scheduler, variable: str, step: Step, past: list[tuple[PathPoint, Any]]
) -> Any:
    """Alpha' sum_j C_j (e_j - e_0): what the predictions before add to DDIM."""
    finite = [(at, e) for at, e in past if np.isfinite(at.log_snr)]
    if step.h == 0 or not np.isfinite(step.h) or len(finite) < 2:
        return 0.0
    # Integrals over log-SNR, in which rho = exp(-log_snr).
    along, weights = _quadrature()
    log_snr = step.start.log_snr + step.h * (along + 1) / 2
    minus_d_rho = step.h / 2 * weights * np.exp(-log_snr)
    if variable == "tab":
        where = np.asarray(scheduler.log_snr_inverse(log_snr))
        nodes = [at.t for at, _ in finite]
    else:
        where, nodes = log_snr, [at.log_snr for at, _ in finite]
    e_0, total = finite[-1][1], 0.0
    for j, (_, e_j) in enumerate(finite[:-1]):
        others = np.array(nodes[:j] + nodes[j + 1 :])
        lagrange = np.prod((where[:, None] - others) / (nodes[j] - others), axis=1)
        total = total - (minus_d_rho @ lagrange) * (e_j - e_0)
    return step.end.alpha * total


def deis(
    nfe: int,
    scheduler: Scheduler,
    order: int = DEIS.order,
    *,
    variable: Literal["tab", "log_rho"] = DEIS.variable,
    lower_order_final: bool | None = DEIS.lower_order_final,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """DEIS, one evaluation a step (Zhang and Chen, 2023).

    Args:
      nfe: steps, at least the order.
      scheduler: the path of the model.
      order: from 1 (DDIM) to 4, 3 if left out; the first steps are of lower order.
      variable: of the polynomial: time ("tab", the default) or log rho ("log_rho").
      lower_order_final: whether the order falls to 1 at the end; if left out, below 15
        steps, as in diffusers.
      grid: of nfe steps; uniform in time if left out.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if the order is out of range or above nfe, or the grid is not sorted
        in [0, 1] or repeats a time.
    """
    return DEIS(order, variable, lower_order_final).build(nfe, scheduler, grid)
