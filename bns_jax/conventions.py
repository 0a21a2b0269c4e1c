"""Whether a field is what its scheduler, prediction and time say: asked of data.

A network that is told another time, or whose output is taken for another prediction,
still gives a smooth field with solvers, pairs and decibels. What it does not do is
denoise. So data are noised as the scheduler does it, x = alpha x1 + sigma x0, and the
data that the field sees in x,

    x1_hat = (sigma' x - sigma u) / (alpha sigma' - alpha' sigma),

are compared with x1, and the noise that it sees, (x - alpha x1_hat) / sigma, with x0.
Each error is taken in units of what it is an error of, and the smaller one counts: a
network of noise knows nothing of the data in pure noise, and one of data nothing of the
noise in clean data. The yardstick is the best linear guess of each entry from itself: a
trained network beats it or comes close; one that is misread fails at some level, unless
what it is taken for is near to what it is, as with two similar schedulers.

Where signal and noise are alike the linear guess is a poor yardstick: of data with two
modes the optimal field knows far more. There the field is held against itself: a
conditional mean is not improved by a factor, nor by what x and the other data tell (see
`residual`). Half a velocity, none, or that of another time are. Under guidance a
velocity is no conditional mean: ask the branch without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import conditioning, notices, residual, scalars, tables
from bns_jax.checks import check_finite, check_rows, check_velocity
from bns_jax.pytree import as_pytree, on_host
from bns_jax.schedulers import Scheduler, check_scheduler
from bns_jax.typing import Array, Sample, VelocityField
from bns_jax.velocity import time_like

_TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
_RATIOS = (0.5, 1.0, 2.0)
_FAR, _SMALL = 1.5, 0.3
_RESCALED, _CORRECTED, _EXACT = 0.9, 0.65, 0.15
"""What corrections must leave of errors at the ratios of signal to noise above, unless
these are small. Networks on digits, after 100 to 2,000 steps: 0.95 and 0.69 or more."""
_MOVED, _SPREAD = 0.5, 1.5
"""By how many standard deviations means, and by what factor these, may differ."""


class Denoising(NamedTuple):
    """How well a field denoises; prints as a table.

    Attributes:
      times: asked at.
      error: root mean square error of the data in units of their standard deviation, or
        of the noise, whichever is smaller.
      linear: that of the best linear guess.
      rescaled: the share of the error that stays if the velocity is scaled by the best
        factor; 1 for a conditional mean.
      corrected: the share that stays if it is also mixed with x and with what the other
        data tell; close to 1 for a well-trained network.
      balanced: whether signal and noise are alike, so that these shares count.
    """

    times: tuple[float, ...]
    error: tuple[float, ...]
    linear: tuple[float, ...]
    rescaled: tuple[float, ...]
    corrected: tuple[float, ...]
    balanced: tuple[bool, ...]

    @property
    def as_trained(self) -> bool:
        """Whether the field denoises at every time as a trained one does."""
        return not self._faults

    @property
    def _faults(self) -> list[str]:
        found = []
        for t, error, linear, rescaled, corrected, balanced in zip(*self, strict=True):
            judged = balanced and error > _EXACT
            if not error <= max(_FAR * linear, _SMALL):
                found.append(f"at {t:.3g} a linear guess is far better")
            elif judged and rescaled < _RESCALED:
                found.append(f"at {t:.3g} the same velocity, scaled, is better")
            elif judged and corrected < _CORRECTED:
                found.append(f"at {t:.3g} the other data tell far more")
        return found

    def __str__(self) -> str:
        """A line per time, and what they mean."""
        lines = [
            ["time", "error", "linear guess", "ratio", "rescaled", "corrected"],
            [],
        ]
        for t, error, linear, *shares, balanced in zip(*self, strict=True):
            ratio = f"{error / linear:.2f}" if linear > 0 else "-"
            told = [f"{share:.2f}" if balanced else "-" for share in shares]
            lines.append([f"{t:.3g}", f"{error:.3g}", f"{linear:.3g}", ratio, *told])
        if self.as_trained:
            verdict = "The field denoises as one of this scheduler, prediction, time."
        else:
            verdict = (
                "The field does not denoise: this is not its scheduler, its prediction "
                "or its time (a trained field has ratios around 1 or below, and shares "
                f"near 1): {self._faults[0]}."
            )
        return f"{tables.aligned(lines)}\n\n{verdict}"


def check(
    vf: VelocityField,
    scheduler: Scheduler,
    data: Sample,
    *args: Any,
    times: Sequence[float] | None = None,
    seed: int = 0,
) -> Denoising:
    """Asks a field to denoise data that are noised as its scheduler says.

    Args:
      vf: the field, called as vf(t, x, *args).
      scheduler: of the path that it is said to be on.
      data: clean samples, leaves (N, ...); a hundred are enough.
      *args: their conditioning, leaves (N, ...).
      times: to ask at, between 0 and 1; if left out, five from 0.1 to 0.9 and those
        where the signal is half, the same and twice the noise.
      seed: of the noise.

    Returns:
      The errors; `print` shows them, `.as_trained` is the verdict.

    Raises:
      TypeError: if a leaf is no array of numbers.
      ValueError: if leaves have different leading axes, data are not finite, a time is
        not between 0 and 1, or the field refuses the conditioning (see
        `conditioning.check`) or returns something else than x.
    """
    check_scheduler(scheduler)
    check_rows({"data": data, "args": args})
    check_finite("data", data)
    conditioning.check(vf, args)
    spread = _moments(data)[1]
    times = _default_times(scheduler, spread) if times is None else times
    times = tuple(scalars.fraction("times", t) for t in np.atleast_1d(times))
    if not times or not all(0 < t < 1 for t in times):
        raise ValueError(f"times must be some between 0 and 1, got {list(times)}")
    # Its own stream: data may be made of draws of the same seed.
    rng, field = np.random.default_rng((seed, 1)), as_pytree(vf)
    data = jax.tree.map(lambda leaf: jnp.asarray(leaf), data)
    noise = jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), data
    )
    rows = []
    for t in times:
        alpha, sigma = float(scheduler.alpha(t)), float(scheduler.sigma(t))
        # An error of the data is one of the noise, alpha / sigma times as large.
        units = min(1 / spread, alpha / sigma)
        seen = _observed(field, scheduler, t, data, noise, args)
        error = units * _root_mean_square(seen.data - seen.guess)
        linear = units * _linear_error(alpha, sigma, seen.data)
        balanced = 0.99 * _RATIOS[0] < spread * alpha / sigma < 1.01 * _RATIOS[-1]
        rows.append((error, linear, *residual.shares(seen), balanced))
    return Denoising(times, *zip(*rows, strict=True))


def _default_times(scheduler: Scheduler, spread: float) -> list[float]:
    """Some all over, and those where signal and noise are alike, if there are any."""
    alike = [float(scheduler.snr_inverse(ratio / spread)) for ratio in _RATIOS]
    return sorted({*_TIMES, *(t for t in alike if 0 < t < 1)})


def warn_unlike(x1: Sample, data: Sample) -> None:
    """Warns if samples are unlike clean data in their mean or their spread.

    Args:
      x1: samples that a field has led to, leaves (N, ...).
      data: clean samples, leaves (M, ...).
    """
    made, clean = _moments(x1), _moments(data)
    moved = abs(made[0] - clean[0]) / clean[1]
    spread = made[1] / clean[1]
    if moved > _MOVED or not 1 / _SPREAD < spread < _SPREAD:
        notices.warn(
            f"the solved samples have mean {made[0]:.3g} and standard deviation "
            f"{made[1]:.3g}, the data {clean[0]:.3g} and {clean[1]:.3g}: is this the "
            "field's scheduler, prediction and time? conventions.check tells",
        )


def _moments(tree: Sample) -> tuple[float, float]:
    """The mean and the standard deviation of all entries."""
    leaves = [
        np.ravel(on_host(leaf)).astype(np.float64) for leaf in jax.tree.leaves(tree)
    ]
    values = np.concatenate(leaves)
    return float(np.mean(values)), max(float(np.std(values)), 1e-30)


def _observed(
    field: VelocityField,
    scheduler: Scheduler,
    t: float,
    data: Sample,
    noise: Sample,
    args: tuple[Any, ...],
) -> residual.Observed:
    """Noised data, and what the field takes for the clean ones."""
    alpha, sigma = float(scheduler.alpha(t)), float(scheduler.sigma(t))
    d_alpha, d_sigma = float(scheduler.d_alpha(t)), float(scheduler.d_sigma(t))
    x = jax.tree.map(lambda data, noise: alpha * data + sigma * noise, data, noise)
    u = _velocity(field, np.float32(t), x, args)
    flat_data, flat_x, flat_u = map(_flat, (data, x, u))
    guess = (d_sigma * flat_x - sigma * flat_u) / (alpha * d_sigma - d_alpha * sigma)
    return residual.Observed(flat_data, flat_x, flat_u, guess, alpha, sigma)


@jax.jit
def _velocity(vf: VelocityField, t: Array, x: Sample, args: tuple[Any, ...]) -> Sample:
    time = time_like(t, x)
    u = vf(time, x, *args)
    check_velocity(u, x, time)
    return u


def _linear_error(alpha: float, sigma: float, data: np.ndarray) -> float:
    """Of the linear guess of each entry: its variance left, v s^2 / (a^2 v + s^2)."""
    variance = np.var(data, axis=0)
    left = variance * sigma**2 / (alpha**2 * variance + sigma**2)
    return float(np.sqrt(np.mean(left)))


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _flat(tree: Sample) -> np.ndarray:
    """One sample after another, (N, d) in float64."""
    leaves = [on_host(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)
