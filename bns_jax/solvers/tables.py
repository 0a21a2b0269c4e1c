"""Solvers on the noise levels or time steps that published tables give.

Three readings: noise-to-signal ratios (k-diffusion, EDM, diffusers' sigmas of diffusion
models), the noise's share of a flow model, and discrete steps of training.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from bns_jax import grids, scalars
from bns_jax.ns import NSParams
from bns_jax.schedulers import Scheduler, check_scheduler, cond_ot
from bns_jax.solvers.base import Method
from bns_jax.solvers.catalogue import CATALOGUE, look_up
from bns_jax.solvers.options import check_choice
from bns_jax.typing import Array

_NEAR, _FAR, _FAR_OF_FLOW = 0.1, 0.5, 0.25
"""A start is refused where a sample differs from pure noise by more of its size.

Tables of few evenly spaced training steps start a whole step after the noise (_FAR),
tables of flow models at it; none leaves out more than its largest step (_NEAR).
"""


def from_sigmas(
    name: str,
    sigmas: Array,
    scheduler: Scheduler,
    *,
    partial: bool = False,
    **options: Any,
) -> NSParams:
    """A solver on the noise levels that published tables give.

    Tables are rounded: a first level up to 1e-4 above the scheduler's largest, relative
    to it, counts as the largest.

    Args:
      name: a key of `CATALOGUE` that makes one evaluation a step.
      sigmas: (n + 1,) decreasing noise-to-signal ratios sigma / alpha, as k-diffusion
        and EDM count them; the last one may be 0, or repeat the one before. Those of
        flow models are another number: `from_flow_sigmas`.
      scheduler: the path of the model.
      partial: whether x0 will be a sample already noised to the first level, as in
        image-to-image; else it is pure noise, and the first level must be.
      **options: of the solver, as `build` takes them.

    Returns:
      The times (n,), and the coefficients a (n,) and b (n, n), float64; one more than n
      of each for PNDM, whose first step makes two evaluations.

    Raises:
      ValueError: if the ratios do not decrease or leave the range of the scheduler, the
        first is not where the noise is, or the solver makes several evaluations a step.
    """
    check_scheduler(scheduler)
    method = _method(name, options)
    levels = _table("sigmas", sigmas, 2)
    if levels[-1] < 0:
        raise ValueError(f"sigmas must not be negative, got {levels[-1]:g}")
    grids.check_largest(scheduler, "sigmas", levels[0])
    times = grids.at_levels(scheduler, levels)
    return _build(method, times, scheduler, partial)


def from_flow_sigmas(
    name: str,
    sigmas: Array,
    scheduler: Scheduler | None = None,
    *,
    partial: bool = False,
    **options: Any,
) -> NSParams:
    """A solver on the noise levels that tables of flow models give.

    Args:
      name: a key of `CATALOGUE` that makes one evaluation a step.
      sigmas: (n + 1,) decreasing shares of the noise, 1 - t on the cond-OT path and
        sigma / (alpha + sigma) on any, from 1 (noise) to 0 (data): the sigmas of
        diffusers' FlowMatchEulerDiscreteScheduler. Shifted ones are taken as they are.
      scheduler: the path of the model, cond_ot() if left out.
      partial: as of `from_sigmas`.
      **options: of the solver, as `build` takes them.

    Returns:
      The times (n,), and the coefficients a (n,) and b (n, n), float64; one more than n
      of each for PNDM, whose first step makes two evaluations.

    Raises:
      ValueError: if the shares do not decrease or leave [0, 1], the first is not where
        the noise is, or the solver makes several evaluations a step.
    """
    check_scheduler(scheduler, optional=True)
    method = _method(name, options)
    shares = _table("sigmas", sigmas, 2)
    if shares[0] > 1 or shares[-1] < 0:
        raise ValueError(
            f"sigmas of a flow model must lie in [0, 1], got {shares[0]:g} to "
            f"{shares[-1]:g}; noise-to-signal ratios are `from_sigmas`"
        )
    path = cond_ot() if scheduler is None else scheduler
    with np.errstate(divide="ignore"):
        times = grids.at_levels(path, shares / (1.0 - shares))
    return _build(method, times, path, partial, _FAR_OF_FLOW)


def from_flow_timesteps(
    name: str,
    timesteps: Array,
    scheduler: Scheduler | None = None,
    *,
    steps: int = 1000,
    partial: bool = False,
    **options: Any,
) -> NSParams:
    """A solver on the time steps that tables of flow models give, steps (1 - t).

    Args:
      name: a key of `CATALOGUE` that makes one evaluation a step.
      timesteps: (n,) decreasing numbers from `steps` (noise) to 0, whole or not; clean
        data is added behind where they do not end with 0.
      scheduler: the path of the model, cond_ot() if left out.
      steps: what stands for pure noise.
      partial: as of `from_sigmas`.
      **options: of the solver, as `build` takes them.

    Returns:
      The times (n,), and the coefficients a (n,) and b (n, n), float64; one more than n
      of each for PNDM, whose first step makes two evaluations.

    Raises:
      ValueError: as `from_flow_sigmas`.
    """
    check_scheduler(scheduler, optional=True)
    steps = scalars.count("steps", steps)
    k = _table("timesteps", timesteps, 1)
    if not (k[0] <= steps and k[-1] >= 0):
        got = f"{timesteps!s:.60}"
        raise ValueError(f"timesteps must lie in [0, {steps}], got {got}")
    shares = (k if k[-1] == 0 else np.append(k, 0.0)) / steps
    return from_flow_sigmas(name, shares, scheduler, partial=partial, **options)


def from_timesteps(
    name: str,
    timesteps: Array,
    scheduler: Scheduler,
    steps: int | None = None,
    *,
    final: Literal["zero", "sigma_min"] = "zero",
    partial: bool = False,
    **options: Any,
) -> NSParams:
    """A solver on the discrete time steps that published tables give.

    Args:
      name: a key of `CATALOGUE` that makes one evaluation a step.
      timesteps: (n,) decreasing steps k of a model trained with `steps` of them; the
        end is added behind.
      scheduler: the path of the model, such as `from_alphas_cumprod` gives. Its own
        steps are the first ones of the training: where it left the noisiest out, a
        first k among these stands for the noisiest it has.
      steps: of the training; if left out, those of a scheduler that
        `from_alphas_cumprod` gave, and 1000 of any other.
      final: whether the last step leads to clean data ("zero") or to step 0
        ("sigma_min"), which is set_alpha_to_one=False of diffusers' DDIM.
      partial: as of `from_sigmas`.
      **options: of the solver, as `build` takes them.

    Returns:
      The times (n,), and the coefficients a (n,) and b (n, n), float64; one more than n
      of each for PNDM, whose first step makes two evaluations.

    Raises:
      ValueError: if the steps do not decrease or leave 0 .. steps - 1, more than the
        first are steps that the scheduler left out, the first is not where the noise
        is, or the solver makes several evaluations a step.
    """
    check_scheduler(scheduler)
    method = _method(name, options)
    check_choice("final", final, ("zero", "sigma_min"))
    own, steps = grids.steps_of_training(scheduler, steps)
    k = _table("timesteps", timesteps, 1)
    if not (k[0] <= steps - 1 and k[-1] >= 0):
        got = f"{timesteps!s:.60}"
        raise ValueError(f"timesteps must lie in [0, {steps - 1}], got {got}")
    own = own or steps
    times = grids.at_steps(grids.held(k, own, steps), own, final)
    return _build(method, times, scheduler, partial)


def _table(name: str, values: Array, least: int) -> np.ndarray:
    """The values in float64, checked: a last one may repeat the one before."""
    table = scalars.numbers(name, values)
    fits = table.ndim == 1 and len(table) >= least and not np.any(np.isnan(table))
    if fits:
        with np.errstate(invalid="ignore"):
            steps = np.diff(table)
        fits = bool(np.all(steps[:-1] < 0) and np.all(steps <= 0))
    if not fits:
        number = "two or more decreasing numbers" if least > 1 else "decreasing numbers"
        raise ValueError(f"{name} must be {number}, got {values!s:.60}")
    return table


def _method(name: str, options: dict[str, Any]) -> Method:
    """The solver of that name and options, which makes one evaluation a step."""
    method = look_up(name).replace(**options)
    if method.stages > 1:
        others = ", ".join(key for key, other in CATALOGUE.items() if other.stages < 2)
        raise ValueError(
            f"a table of published steps needs one evaluation a step, {name} makes "
            f"{method.stages}; these make one: {others}"
        )
    return method


def _build(
    method: Method,
    times: np.ndarray,
    scheduler: Scheduler,
    partial: bool,
    far: float = _FAR,
) -> NSParams:
    if not partial:
        _check_start(scheduler, times, far)
    nfe = len(times) - 1 + method.extra
    return method.build(nfe, scheduler, grids.from_times(times))


def _check_start(scheduler: Scheduler, times: np.ndarray, far: float) -> None:
    """Refuses a start that is not where the noise is.

    A solver takes x0 = sigma_0 noise for the sample alpha_t data + sigma_t noise, which
    is right near t = 0 alone.
    """
    t = float(times[0])
    far = min(far, _NEAR) if t > 1.05 * np.max(np.diff(times)) else far
    alpha, sigma = float(scheduler.alpha(t)), float(scheduler.sigma(t))
    sigma_0 = float(scheduler.sigma(0.0))
    if np.hypot(alpha, sigma - sigma_0) > far * sigma_0:
        raise ValueError(
            f"the table starts at t = {t:.3g}, where a sample is {alpha:.3g} data + "
            f"{sigma:.3g} noise, and x0 is {sigma_0:.3g} noise; expected a first entry "
            "near the noise. The levels of a flow model are `from_flow_sigmas`, and "
            "partial=True says that x0 is a sample noised to the first level"
        )
