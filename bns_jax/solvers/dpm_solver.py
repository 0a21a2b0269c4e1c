"""DPM-Solver (noise) and DPM-Solver++ (data), whose methods `dpm` holds."""

from __future__ import annotations

from typing import Literal

from bns_jax import grids
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler
from bns_jax.solvers.base import Method
from bns_jax.solvers.dpm import DPMMultistep, DPMSinglestep
from bns_jax.solvers.options import check_choice
from bns_jax.solvers.prediction import Kind


def dpm_solver(
    nfe: int,
    scheduler: Scheduler,
    order: int = DPMSinglestep.order,
    *,
    steps: Literal["single", "multi"] = "single",
    lower_order_final: bool | None = DPMMultistep.lower_order_final,
    euler_at_final: bool = DPMMultistep.euler_at_final,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """DPM-Solver (Lu et al., 2022a): exponential integrators of the noise prediction.

    Args:
      nfe: evaluations in all.
      scheduler: the path of the model.
      order: from 1 (DDIM) to 3, which is the default.
      steps: "single", the default, makes `order` evaluations a step, "multi" one.
      lower_order_final: of "multi", whether the last two steps are of order 2 and 1; if
        left out, below 15 steps, as in diffusers.
      euler_at_final: of "multi", whether the last step is of order 1 in any case.
      grid: uniform in time if left out. "multi" takes nfe steps; how many "single"
        takes follows from nfe and order.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if the order is out of range or above nfe, the grid is not sorted in
        [0, 1] or repeats a time, or an option of "multi" is given to "single".
    """
    method = _method(steps, order, "noise", lower_order_final, euler_at_final)
    return method.build(nfe, scheduler, grid)


def dpm_solver_pp(
    nfe: int,
    scheduler: Scheduler,
    order: int = DPMMultistep.points,
    *,
    steps: Literal["single", "multi"] = "multi",
    lower_order_final: bool | None = DPMMultistep.lower_order_final,
    euler_at_final: bool = DPMMultistep.euler_at_final,
    grid: grids.GridLike | None = None,
) -> NSParams:
    """DPM-Solver++ (Lu et al., 2022b): exponential integrators of the data prediction.

    Order 2 in "multi" is "2M", in "single" "2S". "3M" is the published formula, which
    takes half of its last term and so converges with order 2.

    Args:
      nfe: evaluations in all.
      scheduler: the path of the model.
      order: from 1 (DDIM) to 3, 2 if left out.
      steps: "single" makes `order` evaluations a step, "multi", the default, one.
      lower_order_final: of "multi", whether the last two steps are of order 2 and 1; if
        left out, below 15 steps, as in diffusers.
      euler_at_final: of "multi", whether the last step is of order 1 in any case.
      grid: uniform in time if left out. "multi" takes nfe steps; how many "single"
        takes follows from nfe and order.

    Returns:
      The times (nfe,), and the coefficients a (nfe,) and b (nfe, nfe), float64.

    Raises:
      ValueError: if the order is out of range or above nfe, the grid is not sorted in
        [0, 1] or repeats a time, or an option of "multi" is given to "single".
    """
    method = _method(steps, order, "data", lower_order_final, euler_at_final)
    return method.build(nfe, scheduler, grid)


def _method(
    steps: str,
    order: int,
    kind: Kind,
    lower_order_final: bool | None,
    euler_at_final: bool,
) -> Method:
    """The method of that kind of steps."""
    check_choice("steps", steps, ("single", "multi"))
    if steps == "multi":
        return DPMMultistep(order, kind, lower_order_final, euler_at_final)
    if lower_order_final is not None or euler_at_final:
        raise ValueError(
            'lower_order_final and euler_at_final are options of steps="multi", got '
            'steps="single", whose orders follow from nfe'
        )
    return DPMSinglestep(order, kind)
