"""The state of a training run: what it starts from, saves, and continues with."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bns_jax.distill.optimizer import Trainer
from bns_jax.families import Family


class TrainerState(NamedTuple):
    """Everything that a resumed run needs.

    Attributes:
      step: steps done.
      theta: now.
      opt_state: of the trainer.
      key: PRNG key of the run.
      best_theta: of the best validation so far.
      best_metric: what it reached.
      rejected: steps that were not finite and not taken.
    """

    step: jax.Array
    theta: Any
    opt_state: Any
    key: jax.Array
    best_theta: Any
    best_metric: jax.Array
    rejected: jax.Array


class HistoryRow(NamedTuple):
    """One validation.

    Attributes:
      iteration: steps done.
      forwards: calls of the field on one sample, spent until then.
      train_loss: mean over the steps since the row before; nan at iteration 0.
      val_metric: mean over the validation pairs.
      seconds: since the start, earlier runs that were resumed included.
    """

    iteration: int
    forwards: int
    train_loss: float
    val_metric: float
    seconds: float


def initial_state(family: Family, trainer: Trainer, seed: int) -> TrainerState:
    """The state at step 0.

    Args:
      family: to be fitted.
      trainer: of the run.
      seed: of its random numbers.

    Returns:
      The state, of copies: a step may donate it.
    """
    theta = jax.tree.map(jnp.copy, family.theta)
    return TrainerState(
        step=jnp.zeros((), jnp.int32),
        theta=theta,
        # A copy of each: some optimizers begin with one array in two places.
        opt_state=jax.tree.map(jnp.copy, trainer.init(theta)),
        key=jax.random.key(seed),
        best_theta=jax.tree.map(jnp.copy, theta),
        # With a dtype of its own, as all later ones: or the step is traced twice. No
        # infinity, which jax_debug_infs would take for a fault of the step.
        best_metric=_lowest(jnp.result_type(float)),
        rejected=jnp.zeros((), jnp.int32),
    )


def _lowest(dtype: Any) -> jax.Array:
    return jnp.full((), jnp.finfo(dtype).min, dtype)
