"""Grids laid in the discrete steps that a diffusion model was trained on."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bns_jax import scalars
from bns_jax.grids.base import Grid
from bns_jax.typing import Array

_SPACINGS = ("leading", "linspace", "trailing")


def timesteps(
    spacing: Literal["leading", "linspace", "trailing"],
    training_steps: int = 1000,
    *,
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
      training_steps: T, the steps of the training.
      offset: is added to the steps of "leading"; 1 for Stable Diffusion.
      skip_last: whether "leading" and "linspace" lay n + 1 steps and leave the last one
        out, as the multistep solvers of diffusers do and DDIM and Euler do not.
      final: whether the last step leads to clean data ("zero") or to step 0
        ("sigma_min"), which is set_alpha_to_one=False of diffusers' DDIM.

    Raises:
      ValueError: if an option is none of these; by the grid, if there are more steps
        than in training, or the offset moves one out of 0 .. T - 1.
    """
    if spacing not in _SPACINGS:
        named = " or ".join(f'"{name}"' for name in _SPACINGS)
        raise ValueError(f"spacing must be {named}, got {spacing!r}")
    check_final(final)
    T = scalars.count("training_steps", training_steps)
    offset = scalars.count("offset", offset, 0)

    def grid(steps: int) -> np.ndarray:
        laid = steps + skip_last
        if spacing == "trailing":
            k = np.round(T - np.arange(steps) * (T / steps)) - 1
        elif spacing == "linspace":
            k = np.round(np.linspace(0, T - 1, laid))[::-1][:steps]
        else:
            k = (np.arange(laid) * (T // laid))[::-1][:steps] + offset
        if np.any(np.diff(k) >= 0) or k[0] > T - 1:
            raise ValueError(
                f"{steps} {spacing} steps with offset {offset} do not fit into {T} "
                f"steps of training, got {k}"
            )
        return at_steps(k, T, final)

    return grid


def at_steps(k: Array, training_steps: int, final: str = "zero") -> np.ndarray:
    """The times of steps k of T, t = 1 - (k + 1) / T, and of the end behind them.

    Args:
      k: (n,), decreasing.
      training_steps: T.
      final: "zero" (clean data, t = 1) or "sigma_min" (step 0, t = 1 - 1 / T).
    """
    last = -1.0 if final == "zero" else 0.0
    return 1.0 - (np.append(np.asarray(k, np.float64), last) + 1.0) / training_steps


def check_final(final: str) -> None:
    """Raises ValueError unless it is "zero" or "sigma_min"."""
    if final not in ("zero", "sigma_min"):
        raise ValueError(f'final must be "zero" or "sigma_min", got {final!r}')
