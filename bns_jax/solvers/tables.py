"""Solvers on the noise levels or time steps that published tables give."""

from __future__ import annotations

import numpy as np

from bns_jax import grids
from bns_jax.ns import NSParams
from bns_jax.schedulers import DiscreteVP, Scheduler
from bns_jax.solvers.catalogue import CATALOGUE, build, look_up
from bns_jax.typing import Array


def from_sigmas(name: str, sigmas: Array, scheduler: Scheduler) -> NSParams:
    """A solver on the noise levels that published tables give.

    Args:
      name: a key of `CATALOGUE` that makes one evaluation a step.
      sigmas: (n + 1,) decreasing noise-to-signal ratios sigma / alpha, as k-diffusion
        and EDM count them; the last one may be 0.
      scheduler: the path of the model.

    Raises:
      ValueError: if the ratios do not decrease or leave the range of the scheduler, or
        the solver makes several evaluations a step.
    """
    _check_one_evaluation_a_step(name)
    levels = np.asarray(sigmas, np.float64)
    if levels.ndim != 1 or len(levels) < 2 or not np.all(np.diff(levels) < 0):
        raise ValueError(f"sigmas must be two or more decreasing numbers, got {sigmas}")
    largest = float(np.exp(-scheduler.log_snr(0.0)))
    if levels[0] > largest * (1 + 1e-6) or levels[-1] < 0:
        raise ValueError(
            f"sigmas must lie in [0, {largest:g}], the range of the scheduler, got "
            f"{levels[0]:g} to {levels[-1]:g}"
        )
    with np.errstate(divide="ignore"):
        times = scheduler.snr_inverse(1.0 / levels).clip(0.0, 1.0)
    return build(name, len(levels) - 1, scheduler, grids.from_times(times))


def from_timesteps(
    name: str, timesteps: Array, scheduler: Scheduler, steps: int | None = None
) -> NSParams:
    """A solver on the discrete time steps that published tables give.

    Args:
      name: a key of `CATALOGUE` that makes one evaluation a step.
      timesteps: (n,) decreasing steps k of a model trained with `steps` of them; clean
        data is added behind.
      scheduler: the path of the model, such as `from_alphas_cumprod` gives.
      steps: of the training; if left out, those of a scheduler that
        `from_alphas_cumprod` gave, and 1000 of any other.

    Raises:
      ValueError: if the steps do not decrease or leave 0 .. steps - 1, or the solver
        makes several evaluations a step.
    """
    _check_one_evaluation_a_step(name)
    if steps is None:
        steps = 1000
        if isinstance(scheduler, DiscreteVP):
            steps = len(scheduler.log_alphas) - 1
    k = np.asarray(timesteps, np.float64)
    if k.ndim != 1 or len(k) < 1 or not np.all(np.diff(k) < 0):
        raise ValueError(f"timesteps must be decreasing numbers, got {timesteps}")
    if not (k[0] <= steps - 1 and k[-1] >= 0):
        raise ValueError(f"timesteps must lie in [0, {steps - 1}], got {timesteps}")
    times = np.append(1.0 - (k + 1.0) / steps, 1.0)
    return build(name, len(k), scheduler, grids.from_times(times))


def _check_one_evaluation_a_step(name: str) -> None:
    stages = look_up(name).stages
    if stages > 1:
        fitting = ", ".join(key for key, entry in CATALOGUE.items() if entry.stages < 2)
        raise ValueError(
            f"a table of published steps needs one evaluation a step, {name} makes "
            f"{stages}; these make one: {fitting}"
        )
