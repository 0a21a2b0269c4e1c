"""What a solver reaches on pairs."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bns_jax import conditioning, ns, pairs, parallel
from bns_jax.checks import check_per_sample
from bns_jax.distill.optimizer import Metric
from bns_jax.metrics import psnr
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.pytree import as_pytree, on_host
from bns_jax.typing import Sample, VelocityField

PER_DEVICE = 64
"""Samples that a field is called with at a time: more fall out of a CPU's cache."""


def evaluate(
    params: NSParams,
    vf: VelocityField,
    data: Pairs,
    metric: Metric = psnr,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """What a solver reaches on pairs.

    Args:
      params: the solver.
      vf: the field.
      data: the pairs.
      metric: metric(x_n, x1) -> (batch,).
      mesh: devices to lay each batch over, along the mesh's first axis.

    Returns:
      (N,), the metric of each sample.

    Raises:
      TypeError: if a leaf of the pairs is no array of numbers.
      ValueError: if the solver is none, the pairs do not belong together, the field
        refuses their conditioning (see `conditioning.check`), or the field or the
        metric returns something else than expected.
    """
    ns.validate(params)
    pairs.check(data)
    conditioning.check(vf, data.args)
    return measure(params, vf, data, metric, mesh)


def measure(
    params: NSParams,
    vf: VelocityField,
    data: Pairs,
    metric: Metric = psnr,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """`evaluate` of what is known to be sound."""
    size = PER_DEVICE * parallel.batch_devices(mesh)
    vf, values = parallel.place(as_pytree(vf), mesh), []
    params = jax.tree.map(on_host, params)
    for rows, kept in parallel.batches(data.size, size, mesh):
        batch = parallel.shard(take(data, rows), mesh)
        values.append(on_host(score(metric, params, vf, *batch))[:kept])
    return np.concatenate(values)


def mean_over_misses(values: np.ndarray) -> float:
    """The mean metric; a sample that is hit exactly counts as the best of the others.

    As infinity it would hide whether these get better.
    """
    hit = np.isposinf(values)
    if not np.all(hit):
        values = np.where(hit, np.max(values, initial=-np.inf, where=~hit), values)
    return float(np.mean(values))


@partial(jax.jit, static_argnums=0)
def score(
    metric: Metric,
    params: NSParams,
    vf: VelocityField,
    x0: Sample,
    x1: Sample,
    args: tuple[Any, ...],
) -> jax.Array:
    """The metric of one batch, (batch,)."""
    values = metric(ns.sample(params, vf, x0, *args), x1)
    check_per_sample(values, len(jax.tree.leaves(x0)[0]), "metric")
    return values


def take(data: Pairs, rows: np.ndarray) -> Any:
    """(x0, x1, args) of some samples, gathered on the host."""
    kept = (data.x0, data.x1, data.args)
    return jax.tree.map(lambda leaf: np.asarray(leaf[rows]), kept)
