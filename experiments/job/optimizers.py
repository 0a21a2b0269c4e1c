"""The optimizer that a configuration asks for, as a model and a machine need it."""

from __future__ import annotations

import jax

from bns_jax import Problem, distill, parallel
from bns_jax.distill import Optimizer
from experiments.job.config import JobConfig

_CACHED_PAIRS = 26


def of(config: JobConfig) -> Optimizer:
    """By name, with what is set; 0 leaves it to the optimizer."""
    if config.optimizer == "adam":
        optimizer = distill.adam(config.learning_rate, config.schedule)  # type: ignore[arg-type]
    else:
        optimizer = distill.gauss_newton()
    asked = {
        name: getattr(config, name)
        for name in ("iterations", "batch", "evaluate_every", "microbatch")
    }
    return optimizer.replace(**{name: value for name, value in asked.items() if value})


def cached(model: Problem, optimizer: Optimizer, pairs: int) -> Optimizer:
    """An optimizer with microbatches that stay in a CPU's cache.

    Args:
      model: whose devices share a batch.
      optimizer: whose own microbatch is kept.
      pairs: to train on.

    Returns:
      The same on other hardware, and where the batch does not divide.
    """
    size = _CACHED_PAIRS * parallel.batch_devices(model.mesh)
    fits = optimizer.batch_of(pairs) % size == 0
    if optimizer.microbatch or not fits or jax.default_backend() != "cpu":
        return optimizer
    return optimizer.replace(microbatch=size)
