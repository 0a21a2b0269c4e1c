"""The samples of one training step, as an objective sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bns_jax.pairs import Pairs
from bns_jax.typing import Array, Sample


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Path:
    """Points of the true trajectories.

    Attributes:
      points: leaves (batch, K, ...).
      times: K of them, in [0, 1]; Python's numbers, also where the points are traced.
    """

    points: Sample
    times: tuple[float, ...] = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Samples of a batch, each leaf with a leading batch axis.

    Attributes:
      x0: noise.
      x1: the true samples.
      args: their conditioning.
      weights: (batch,), how much each counts in the mean.
      trajectory: what `path` gives.
    """

    x0: Sample
    x1: Sample
    args: tuple[Any, ...]
    weights: Array
    trajectory: Path | None = None

    @property
    def path(self) -> Path:
        """The true trajectories.

        Raises:
          ValueError: if the pairs hold none.
        """
        if self.trajectory is None:
            raise ValueError(
                "the objective or metric reads the path of the batch, and there is "
                "none: the pairs hold no points of their trajectories; those of "
                "`ground_truth.pairs` do, unless save_at= says otherwise"
            )
        return self.trajectory

    def without_path(self) -> Batch:
        """The same, to be moved to a device where nobody reads the path.

        Returns:
          A batch whose `path` raises ValueError.
        """
        return dataclasses.replace(self, trajectory=None)


def of_rows(data: Pairs, rows: np.ndarray, *, with_path: bool = True) -> Batch:
    """Some pairs, gathered on the host.

    Args:
      data: pairs.
      rows: their numbers.
      with_path: whether the path is wanted, which is large; there is none where the
        pairs hold no point of it.

    Returns:
      The batch, NumPy arrays; weights float32, at most 1.
    """
    kept = data.x0, data.x1, data.args, data.weights_or_ones
    x0, x1, args, weights = jax.tree.map(lambda leaf: np.asarray(leaf[rows]), kept)
    path = None
    if with_path and len(data.times):
        points = jax.tree.map(
            lambda leaf: np.moveaxis(np.asarray(leaf[:, rows]), 1, 0), data.path
        )
        path = Path(points, tuple(map(float, data.times)))
    return Batch(x0, x1, args, weights.astype(np.float32), path)


def reads_path(function: Callable[[Batch], Any], batch: Batch) -> bool:
    """Whether a function of a batch looks at the path, which is large.

    Args:
      function: is traced, not run.
      batch: an example.

    Returns:
      True if the result depends on it, or passes it on.
    """
    program = jax.make_jaxpr(function)(batch).jaxpr
    read = {
        id(variable)
        for variables in (program.outvars, *(eqn.invars for eqn in program.eqns))
        for variable in variables
    }
    others = len(jax.tree.leaves(batch.without_path()))
    # Fields are flattened in their order, and the path is the last.
    return any(id(variable) in read for variable in program.invars[others:])
