"""What a trainer of solvers is: one shape, `init` and `update`, for all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp

from bns_jax.ns import NSParams, sample
from bns_jax.typing import Sample, VelocityField

Loss: TypeAlias = Callable[[Sample, Sample], jax.Array]
"""loss(x_n, x(1)) -> (batch,), minimised in the mean."""

Metric: TypeAlias = Callable[[Sample, Sample], jax.Array]
"""metric(x_n, x(1)) -> (batch,), larger is better."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of one batch as a function of theta (eq. 13).

    Attributes:
      to_params: of the family.
      vf: the field, with its weights.
      x0: noise of the batch.
      x1: the true samples.
      args: their conditioning.
      loss: per sample.
    """

    to_params: Callable[[Any], NSParams]
    vf: VelocityField
    x0: Sample
    x1: Sample
    args: tuple[Any, ...]
    loss: Loss

    def __call__(self, theta: Any) -> jax.Array:
        """The mean loss of the batch."""
        x_n = sample(self.to_params(theta), self.vf, self.x0, *self.args)
        return jnp.mean(self.loss(x_n, self.x1))


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
      cost: field calls per sample and evaluation of the solver, of one step: a
        forward call counts 1, a backward one 2, rematerialisation nothing.
    """

    init: Callable[[Any], Any]
    update: _UpdateFn
    cost: int


class Optimizer(NamedTuple):
    """A trainer and the recipe it was published with.

    Attributes:
      trainer: trainer(iterations) -> Trainer; schedules need the length of the run.
      name: what tells it and its settings from others.
      batch: default samples per step.
      iterations: default steps.
      evaluate_every: default steps between validations.
    """

    trainer: Callable[[int], Trainer]
    name: str
    batch: int = 40
    iterations: int = 15_000
    evaluate_every: int = 100
