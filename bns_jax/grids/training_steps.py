"""Grids laid in the discrete steps that a diffusion model was trained on."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from bns_jax import scalars
from bns_jax.grids.base import Grid, GridLike
from bns_jax.schedulers import DiscreteVP, Scheduler, check_scheduler
from bns_jax.typing import Array

_SPACINGS = ("leading", "linspace", "trailing")


@dataclasses.dataclass(frozen=True)
class TrainingSteps:
    """A grid of whole training steps; see `timesteps`.

    Attributes:
      spacing: how they are laid.
      steps: T, those of the training.
      own: the first ones, that the scheduler holds.
      offset: of "leading".
      skip_last: whether the last one is left out.
      final: where the last step leads.
    """

    spacing: str
    steps: int
    own: int
    offset: int
    skip_last: bool
    final: str

    def __call__(self, count: int) -> np.ndarray:
        """The times (count + 1,)."""
        T, laid = self.steps, count + self.skip_last
        if self.spacing == "trailing":
            k = np.round(T - np.arange(count) * (T / count)) - 1
        elif self.spacing == "linspace":
            k = np.round(np.linspace(0, T - 1, laid))[::-1][:count]
        else:
            k = (np.arange(laid) * (T // laid))[::-1][:count] + self.offset
        if np.any(np.diff(k) >= 0) or k[0] > T - 1:
            raise ValueError(
                f"{count} {self.spacing} steps with offset {self.offset} do not fit "
                f"into {T} steps of training, got {k}"
            )
        return at_steps(held(k, self.own, T), self.own, self.final)


def timesteps(
    spacing: Literal["leading", "linspace", "trailing"],
    training_steps: int | None = None,
    *,
    scheduler: Scheduler | None = None,
    offset: int = 0,
    skip_last: bool = False,
    final: Literal["zero", "sigma_min"] = "zero",
) -> Grid:
    """Whole training steps, spaced as diffusers' timestep_spacing has it.

    Lin et al., 2024, arXiv:2305.08891, table 2. Only "trailing" and "linspace" begin
    at the noisiest step, where the noise is; "leading" does not.

    Args:
      spacing: "leading" (0, T // n, 2 (T // n), ..), "linspace" (from 0 to T - 1) or
        "trailing" (T - 1 and every T / n before it).
      training_steps: T, the steps of the training; if left out, those of a scheduler
        that `from_alphas_cumprod` gave, and 1000 of any other.
      scheduler: of the model. One of a table may have left out the noisiest steps, as
        that of the published ADM-64 does, with 996 of 1,000: then the first step of the
        grid, where it is one of those, is the noisiest that is left, and the others
        stay what they are.
      offset: is added to the steps of "leading"; 1 for Stable Diffusion.
      skip_last: whether "leading" and "linspace" lay n + 1 steps and leave the last one
        out, as the multistep solvers of diffusers do and DDIM and Euler do not.
      final: whether the last step leads to clean data ("zero") or to step 0
        ("sigma_min"), which is set_alpha_to_one=False of diffusers' DDIM.

    Returns:
      The grid.

    Raises:
      ValueError: if an option is none of these; by the grid, if there are more steps
        than in training, the offset moves one out of 0 .. T - 1, or more than the first
        are steps that the scheduler left out; by a solver, if its scheduler holds
        another number of steps.
    """
    if spacing not in _SPACINGS:
        named = " or ".join(f'"{name}"' for name in _SPACINGS)
        raise ValueError(f"spacing must be {named}, got {spacing!r:.60}")
    check_final(final)
    check_scheduler(scheduler, optional=True)
    own, steps = steps_of_training(scheduler, training_steps, "training_steps")
    offset = scalars.count("offset", offset, 0)
    return TrainingSteps(spacing, steps, own or steps, offset, skip_last, final)


def steps_of_training(
    scheduler: Scheduler | None, steps: int | None, name: str = "steps"
) -> tuple[int | None, int]:
    """The number of steps that a scheduler holds, if any, and of the training.

    Args:
      scheduler: of the model.
      steps: of the training; those of the scheduler, or 1000, if left out.
      name: of that argument.

    Returns:
      The number that the scheduler holds, None if it holds none, and the training's.

    Raises:
      ValueError: if the scheduler holds more.
    """
    own = len(scheduler.log_alphas) - 1 if isinstance(scheduler, DiscreteVP) else None
    steps = (own or 1000) if steps is None else scalars.count(name, steps)
    if own is not None and steps < own:
        raise ValueError(
            f"the scheduler has {own} steps, expected a table of at least as many, got "
            f"{name}={steps}"
        )
    return own, steps


def held(k: np.ndarray, own: int, steps: int) -> np.ndarray:
    """Steps k of the training as those that a scheduler holds, the first `own`.

    Args:
      k: (n,), decreasing steps of the training.
      own: how many steps the scheduler holds.
      steps: how many the training had.

    Returns:
      (n,), the first at most own - 1.

    Raises:
      ValueError: if more than the first are others.
    """
    if np.any(k[1:] > own - 1):
        raise ValueError(
            f"the scheduler has the steps 0 .. {own - 1} of {steps}: only the first "
            f"timestep may be beyond, got {k}"
        )
    return np.minimum(k, own - 1)


def check_path(grid: GridLike | None, scheduler: Any) -> None:
    """Refuses training steps of another table than that of the scheduler.

    Args:
      grid: of any kind.
      scheduler: of the model.

    Raises:
      ValueError: naming both numbers of steps.
    """
    if isinstance(grid, TrainingSteps) and isinstance(scheduler, DiscreteVP):
        own = len(scheduler.log_alphas) - 1
        if grid.own != own:
            raise ValueError(
                f"the grid is of {grid.own} training steps and the scheduler holds "
                f"{own}: expected grids.timesteps({grid.spacing!r}, {grid.steps}, "
                "scheduler=scheduler)"
            )


def at_steps(k: Array, training_steps: int, final: str = "zero") -> np.ndarray:
    """The times of steps k of T, t = 1 - (k + 1) / T, and of the end behind them.

    Args:
      k: (n,), decreasing.
      training_steps: T.
      final: "zero" (clean data, t = 1) or "sigma_min" (step 0, t = 1 - 1 / T).

    Returns:
      (n + 1,), float64.
    """
    last = -1.0 if final == "zero" else 0.0
    return 1.0 - (np.append(np.asarray(k, np.float64), last) + 1.0) / training_steps


def check_final(final: str) -> None:
    """Refuses what is no end of a grid.

    Args:
      final: "zero" or "sigma_min".

    Raises:
      ValueError: if it is another.
    """
    if final not in ("zero", "sigma_min"):
        raise ValueError(f'final must be "zero" or "sigma_min", got {final!r:.60}')
