"""What an optimizer of solvers is: a recipe, and how a step is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from bns_jax import scalars
from bns_jax.derivatives import inside_a_loop
from bns_jax.distill.batch import Batch
from bns_jax.distill.objectives import Objective, ToParams
from bns_jax.identity import Probe
from bns_jax.typing import VelocityField


@dataclasses.dataclass(frozen=True)
class Goal:
    """The objective of one batch as a function of theta (eq. 13).

    Attributes:
      to_params: of the family.
      vf: the field, with its weights.
      batch: the samples.
      objective: what is minimized in the mean.
      microbatch: samples that are worked on at a time; all of them if None.
    """

    to_params: ToParams
    vf: VelocityField
    batch: Batch
    objective: Objective
    microbatch: int | None = None

    def __call__(self, theta: Any) -> jax.Array:
        """The weighted mean loss of the batch.

        Args:
          theta: of the family.

        Returns:
          A scalar.
        """
        return self.mean(self.map(partial(self.losses, theta), self.batch))

    def losses(self, theta: Any, batch: Batch) -> jax.Array:
        """The loss of each of some samples.

        Args:
          theta: of the family.
          batch: some samples, of B.

        Returns:
          (B,).
        """
        x = self.objective.rollout(self.to_params, theta, self.vf, batch)
        return self.objective.loss(x, batch)

    def mean(self, values: jax.Array) -> jax.Array:
        """The mean over the batch, each sample counting by its weight.

        Args:
          values: (batch, ...).

        Returns:
          (...), the mean over the leading axis.
        """
        weights = self.batch.weights.astype(values.dtype)
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
        batch = len(self.batch.weights)
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


class UpdateFn(Protocol):
    """How a trainer makes a step."""

    def __call__(
        self, goal: Goal, theta: Any, opt_state: Any, key: jax.Array
    ) -> Update:
        """One step on one batch; runs under jit."""
        ...


class Trainer(NamedTuple):
    """A pair of pure functions.

    Attributes:
      init: init(theta) -> opt_state.
      update: update(goal, theta, opt_state, key) -> Update.
      cost: calls of the field per pair and evaluation of the solver, of one step: a
        forward call counts 1, a backward one 2, rematerialisation nothing.
      probe: probe(theta) -> numbers that tell it from trainers of the same name; None
        if its name says all. See `bns_jax.identity.probe`.
    """

    init: Callable[[Any], Any]
    update: UpdateFn
    cost: int
    probe: Callable[[Any], Probe] | None = None


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """A trainer, and how long and on what it runs.

    Attributes:
      trainer: trainer(iterations) -> Trainer; schedules need the length of the run.
      name: what tells it and its settings from others.
      batch: samples per step; with fewer pairs, all of them.
      iterations: steps.
      evaluate_every: steps between validations.
      patience: a run ends after this many validations in a row of which none counts.
        One counts that lies above the last that did by at least 5 % of what the run
        has gained since its start. None for runs that never end early.
      microbatch: samples to work on at a time, for a batch that does not fit in
        memory; divides it. The whole batch if None.
    """

    trainer: Callable[[int], Trainer]
    name: str
    batch: int = 40
    iterations: int = 15_000
    evaluate_every: int = 100
    patience: int | None = None
    microbatch: int | None = None
    batch_is_asked_for: bool = dataclasses.field(default=False, repr=False)

    def replace(self, **settings: Any) -> Optimizer:
        """The same with other settings.

        Args:
          **settings: batch=, iterations=, evaluate_every=, patience=, microbatch=; a
            batch that is asked for must not be larger than the pairs are.

        Returns:
          An optimizer; this one stays as it is.

        Raises:
          TypeError: if there is no such setting.
          ValueError: if one is no whole number of at least 1, where it is not None.
        """
        known = {"batch", "iterations", "evaluate_every", "patience", "microbatch"}
        if unknown := sorted(settings.keys() - known):
            raise TypeError(
                f"an optimizer has no settings {unknown}, only {sorted(known)}"
            )
        free = {"patience", "microbatch"}
        counts: dict[str, Any] = {
            name: None if value is None and name in free else scalars.count(name, value)
            for name, value in settings.items()
        }
        asked = self.batch_is_asked_for or "batch" in counts
        return dataclasses.replace(self, **counts, batch_is_asked_for=asked)

    def batch_of(self, pairs: int) -> int:
        """Samples per step where there are so many pairs to train on.

        Args:
          pairs: how many there are.

        Returns:
          `batch`, or all pairs if they are fewer and `batch` was not asked for.
        """
        return self.batch if self.batch_is_asked_for else min(self.batch, pairs)
