"""The state of a training run: what it starts from, saves, and continues with."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.distill.optimizer import Loss, Metric, Optimizer, Trainer
from bns_jax.families import Family, PathLoss
from bns_jax.pairs import Pairs
from bns_jax.pytree import checksum
from bns_jax.typing import VelocityField


class Recipe(NamedTuple):
    """How long and on what a run trains; see `fit`."""

    batch: int
    iterations: int
    evaluate_every: int
    seed: int


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
    """The state at step 0."""
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


def identify(
    recipe: Recipe,
    optimizer: Optimizer,
    family: Family,
    vf: VelocityField,
    train: Pairs,
    validation: Pairs,
    loss: Loss,
    metric: Metric,
    weights: np.ndarray,
) -> dict[str, Any]:
    """What tells this run from others, as JSON values."""
    path = (train.times, train.path) if isinstance(loss, PathLoss) else ()
    return {
        **recipe._asdict(),
        "optimizer": optimizer.name,
        "loss": _name(loss),
        "metric": _name(metric),
        "start": checksum((family.theta, family.to_params(family.theta))),
        "field": checksum(vf),
        "train": checksum((train.x0, train.x1, train.args, weights, *path)),
        "validation": checksum((validation.x0, validation.x1, validation.args)),
    }


def _name(function: Callable[..., Any]) -> str:
    """What tells functions apart, the same in every process."""
    if dataclasses.is_dataclass(function):
        return repr(function)
    if isinstance(function, functools.partial):
        return f"{_name(function.func)}, {function.args}, {function.keywords}"
    return getattr(function, "__qualname__", type(function).__name__)
