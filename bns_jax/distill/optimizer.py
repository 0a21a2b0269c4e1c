"""What a trainer of solvers is: one shape, `init` and `update`, for all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.families import PathLoss
from bns_jax.identity import Probe
from bns_jax.ns import NSParams, sample
from bns_jax.ns.unrolled import inside_a_loop
from bns_jax.typing import Array, Sample, VelocityField

EndLoss: TypeAlias = Callable[[Sample, Sample], jax.Array]
"""loss(x_n, x(1)) -> (batch,)."""

Loss: TypeAlias = EndLoss | PathLoss
"""What is minimised in the mean: a loss of the end, or of the whole path."""

Metric: TypeAlias = Callable[[Sample, Sample], jax.Array]
"""metric(x_n, x(1)) -> (batch,), larger is better."""


class Rows(NamedTuple):
    """Samples of a batch, each leaf with a leading batch axis.

    Attributes:
      x0: noise.
      x1: the true samples.
      args: their conditioning.
      weights: (batch,), how much each counts.
      path: the true trajectory, (batch, K, ...); None unless the loss looks at it.
    """

    x0: Sample
    x1: Sample
    args: tuple[Any, ...]
    weights: Array
    path: Sample = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of one batch as a function of theta (eq. 13).

    Attributes:
      to_params: of the family.
      vf: the field, with its weights.
      rows: the batch.
      loss: per sample.
      microbatch: samples that are worked on at a time; all of them if None.
      times: (K,), of the points of the path.
    """

    to_params: Callable[[Any], NSParams]
    vf: VelocityField
    rows: Rows
    loss: Loss
    microbatch: int | None = None
    times: Array = dataclasses.field(default_factory=lambda: np.zeros(0))

    def __call__(self, theta: Any) -> jax.Array:
        """The weighted mean loss of the batch."""
        return self.mean(self.map(partial(self.losses, theta), self.rows))

    def losses(self, theta: Any, rows: Rows) -> jax.Array:
        """The loss of each sample of some rows."""
        if isinstance(self.loss, PathLoss):
            path = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), rows.path)
            return self.loss(theta, self.vf, self.times, path, rows.args)
        x_n = sample(self.to_params(theta), self.vf, rows.x0, *rows.args)
        return self.loss(x_n, rows.x1)

    @property
    def end_loss(self) -> EndLoss:
        """The loss of (x_n, x1).

        Raises:
          ValueError: if it is one of the whole path.
        """
        if isinstance(self.loss, PathLoss):
            raise ValueError(
                "this optimizer needs a loss of (x_n, x1), got one of the whole path: "
                f"{self.loss}"
            )
        return self.loss

    def mean(self, values: jax.Array) -> jax.Array:
        """The mean over the batch, each sample counting by its weight.

        Args:
          values: (batch, ...).
        """
        weights = self.rows.weights.astype(values.dtype)
        total = jnp.tensordot(weights, values, 1, precision="highest")
        return total / jnp.sum(weights)

    def map(self, function: Callable[[Any], Any], rows: Any) -> Any:
        """function(rows), by one microbatch after another.

        Args:
          function: of rows to values that both have a leading batch axis; what it
            computes on the way is computed again in a backward pass.
          rows: a pytree of the batch.

        Returns:
          Its values for the whole batch.
        """
        batch = len(self.rows.weights)
        size = self.microbatch or batch
        if size == batch:
            return function(rows)

        # Microbatches are strided, so that the devices keep the samples they hold.
        def split(leaf: jax.Array) -> jax.Array:
            return leaf.reshape(size, batch // size, *leaf.shape[1:]).swapaxes(0, 1)

        def join(leaf: jax.Array) -> jax.Array:
            return leaf.swapaxes(0, 1).reshape(batch, *leaf.shape[2:])

        with inside_a_loop():
            values = jax.lax.map(jax.checkpoint(function), jax.tree.map(split, rows))
        return jax.tree.map(join, values)


class Update(NamedTuple):
    """What one training step did.

    Attributes:
      theta: after the step.
      opt_state: after the step.
      loss: of the batch, before the step.
      rejected: whether the step was not finite and therefore not taken.
    """

    theta: Any
    opt_state: Any
    loss: jax.Array
    rejected: jax.Array


class _UpdateFn(Protocol):
    def __call__(
        self, objective: Objective, theta: Any, opt_state: Any, key: jax.Array
    ) -> Update:
        """One step on one batch; runs under jit."""
        ...


class Trainer(NamedTuple):
    """A pair of pure functions.

    Attributes:
      init: init(theta) -> opt_state.
      update: update(objective, theta, opt_state, key) -> Update.
      cost: calls of the field per pair and evaluation of the solver, of one step: a
        forward call counts 1, a backward one 2, rematerialisation nothing.
      probe: probe(theta) -> numbers that tell it from trainers of the same name; None
        if its name says all. See `bns_jax.identity.probe`.
    """

    init: Callable[[Any], Any]
    update: _UpdateFn
    cost: int
    probe: Callable[[Any], Probe] | None = None


class Optimizer(NamedTuple):
    """A trainer and the recipe it was published with.

    Attributes:
      trainer: trainer(iterations) -> Trainer; schedules need the length of the run.
      name: what tells it and its settings from others.
      batch: default samples per step.
      iterations: default steps.
      evaluate_every: default steps between validations.
      patience: default validations without a gain that counts, after which a run ends.
    """

    trainer: Callable[[int], Trainer]
    name: str
    batch: int = 40
    iterations: int = 15_000
    evaluate_every: int = 100
    patience: int | None = None

    def batch_of(self, pairs: int) -> int:
        """Its default samples per step, where there are so many pairs to train on."""
        return min(self.batch, pairs)
