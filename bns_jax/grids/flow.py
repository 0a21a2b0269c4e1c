"""Grids of flow models: the path's time, shifted towards the noise."""

from __future__ import annotations

import math

import numpy as np

from bns_jax import scalars
from bns_jax.grids.base import Grid, GridLike, times


def shifted(shift: float, base: GridLike | None = None) -> Grid:
    """The times of another grid, moved to t / (t + shift (1 - t)).

    For a model whose own path is cond-OT, the resolution shift of Esser et al. (2024,
    section 5.3.2) in its sampler. Where the scheduler itself is
    `schedulers.shifted`, its uniform grid is this one already.

    Args:
      shift: above 1 spends more steps on noise; exp(mu) where a shift is given as mu.
      base: the grid to move, uniform if left out.

    Returns:
      The grid; its ends stay where they are if they are 0 and 1.

    Raises:
      ValueError: unless shift is positive and finite.
    """
    shift = scalars.positive("shift", shift)

    def grid(steps: int) -> np.ndarray:
        t = times(base, steps)
        return t / (t + shift * (1.0 - t))

    return grid


def dynamic_shift(
    tokens: int,
    *,
    base_tokens: int = 256,
    max_tokens: int = 4096,
    base_mu: float = 0.5,
    max_mu: float = 1.15,
) -> float:
    """The shift exp(mu) of models whose mu is linear in the length of the sequence.

    Args:
      tokens: patches of the image to sample.
      base_tokens: the length at which mu is base_mu.
      max_tokens: the length at which mu is max_mu; beyond it the line goes on.
      base_mu: 0.5, as FLUX.1 has it.
      max_mu: 1.15, likewise.

    Returns:
      exp(mu), for `shifted`.

    Raises:
      ValueError: unless the lengths are whole numbers, base_tokens < max_tokens, and
        the values of mu finite.
    """
    tokens = scalars.count("tokens", tokens)
    first = scalars.count("base_tokens", base_tokens)
    last = scalars.count("max_tokens", max_tokens)
    low, high = scalars.finite("base_mu", base_mu), scalars.finite("max_mu", max_mu)
    if not first < last:
        raise ValueError(f"expected base_tokens < max_tokens, got {first} and {last}")
    return math.exp(low + (high - low) * (tokens - first) / (last - first))
