"""One training step, compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from bns_jax import parallel
from bns_jax.distill.batch import Batch
from bns_jax.distill.compiled import jitted
from bns_jax.distill.objectives import Objective, ToParams
from bns_jax.distill.optimizer import Goal, Trainer, UpdateFn
from bns_jax.distill.state import TrainerState


@dataclasses.dataclass(frozen=True)
class Task:
    """What is fitted to what, but for the field and the batch.

    Attributes:
      to_params: of the family.
      objective: what is minimized in the mean.
      microbatch: samples that are worked on at a time; all of them if None.
    """

    to_params: ToParams
    objective: Objective
    microbatch: int | None = None

    def on(self, vf: Any, batch: Batch) -> Goal:
        """The objective of one batch as a function of theta.

        Args:
          vf: the field.
          batch: leaves (B, ...).

        Returns:
          goal(theta) -> the weighted mean loss.
        """
        return Goal(self.to_params, vf, batch, self.objective, self.microbatch)


def make_step(
    trainer: Trainer, task: Task, mesh: Mesh | None = None
) -> Callable[..., tuple[TrainerState, jax.Array]]:
    """The jitted training step; equal ones are compiled once, see `compiled.jitted`.

    Args:
      trainer: its update.
      task: what is minimized.
      mesh: the devices, on each of which the state lies.

    Returns:
      step(vf, state, batch) -> (state, loss); the loss of a rejected step is nan.
    """
    step = _Step(trainer.update, task)
    return jitted(step, donate_argnums=1, out_shardings=parallel.replicated(mesh))


@dataclasses.dataclass(frozen=True)
class _Step:
    __name__ = "step"
    update: UpdateFn
    task: Task

    def __call__(
        self, vf: Any, state: TrainerState, batch: Batch
    ) -> tuple[TrainerState, jax.Array]:
        key = jax.random.fold_in(state.key, state.step)
        goal = self.task.on(vf, batch)
        update = self.update(goal, state.theta, state.opt_state, key)
        state = state._replace(
            step=state.step + 1,
            theta=update.theta,
            opt_state=update.opt_state,
            rejected=state.rejected + update.rejected.astype(jnp.int32),
        )
        return state, jnp.where(update.rejected, jnp.nan, update.loss)
