"""When a run ends because nothing in it is finite any more, and what it says then."""

from __future__ import annotations

import collections
from typing import Any, NoReturn

import jax
import numpy as np

from bns_jax import ns
from bns_jax.distill.batch import Batch
from bns_jax.ns import NSParams
from bns_jax.pytree import on_host
from bns_jax.typing import VelocityField

_MOST_REJECTED = 10


class RecentLosses:
    """The losses of the last ten steps; of all steps of a shorter run."""

    def __init__(self, iterations: int):
        """Starts without any.

        Args:
          iterations: of the run.
        """
        self._losses = collections.deque[Any](maxlen=min(_MOST_REJECTED, iterations))

    def add(self, *losses: Any) -> None:
        """Adds those of some steps, whose values need not be known yet.

        Args:
          *losses: scalars, of JAX or Python.
        """
        self._losses.extend(losses)

    def __len__(self) -> int:
        return len(self._losses)

    def values(self) -> list[float]:
        """The newest last; waits for the device.

        Returns:
          At most ten floats.
        """
        return [float(loss) for loss in self._losses]

    def none_is_finite(self, done: int, look: bool, last: bool = False) -> bool:
        """Whether there are as many as are remembered, and none of them is finite.

        Args:
          done: steps of the run; every tenth is looked at.
          look: whether to look at this one too, which waits for the device.
          last: whether no step will follow: then fewer are enough.

        Returns:
          False while there are fewer.
        """
        if not look and done % _MOST_REJECTED:
            return False
        enough = len(self) == self._losses.maxlen or (last and len(self) > 0)
        return enough and not np.any(np.isfinite(self.values()))


def report_not_finite(
    params: NSParams, done: int, vf: VelocityField, batch: Batch, steps: int
) -> NoReturn:
    """Says at which time the field ceased to be finite.

    Args:
      params: the solver that could not be improved.
      done: steps of the run.
      vf: the field.
      batch: of the last step.
      steps: how many of them were not finite.

    Raises:
      ValueError: always; names the time, the iterations, or that the loss is not
        finite.
    """
    _, velocities = jax.jit(ns.sample_velocities)(params, vf, batch.x0, *batch.args)
    finite = np.all([_is_finite(u) for u in jax.tree.leaves(velocities)], axis=0)
    where = "the loss is not finite on these pairs"
    if not np.all(finite):
        where = f"the field is not finite at t = {params.times[np.argmin(finite)]:.6g}"
    raise ValueError(
        f"no step from iteration {done - steps + 1} to {done} was finite: {where}; the "
        "state before them is saved if a checkpoint was given"
    )


def _is_finite(leaf: jax.Array) -> np.ndarray:
    """Whether each entry of the leading axis is."""
    return np.isfinite(on_host(leaf)).reshape(len(leaf), -1).all(axis=1)
