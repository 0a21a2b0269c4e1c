"""The optimizer that a configuration asks for."""

from __future__ import annotations

from bns_jax import distill
from bns_jax.distill import Optimizer
from experiments.job.config import JobConfig


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
