"""What a solver reaches on pairs."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from bns_jax import ns, pairs, parallel, probing
from bns_jax.checks import check_per_sample
from bns_jax.distill.batch import Batch, of_rows, reads_path
from bns_jax.distill.objectives import BatchFunction, Metric, as_batch_function
from bns_jax.held import as_it_is
from bns_jax.metrics import psnr
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.problem import Problem
from bns_jax.pytree import as_pytree, on_host
from bns_jax.typing import VelocityField

PER_DEVICE = 64
"""Samples that a field is called with at a time: more fall out of a CPU's cache."""


def evaluate(
    params: NSParams,
    vf: Problem | VelocityField,
    data: Pairs,
    metric: Metric | None = None,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """What a solver reaches on pairs.

    Args:
      params: the solver.
      vf: the field, or a `Problem`.
      data: the pairs.
      metric: metric(x_n, x1) or metric(x_n, batch) -> (batch,); that of the problem,
        PSNR, if left out.
      mesh: devices to lay each batch over, along the mesh's first axis;
        those of the problem if left out.

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
    problem = Problem.of(vf)
    mesh = mesh or problem.mesh
    probing.look(parallel.place(problem.pytree, mesh), data.x0, data.args, mesh)
    metric = problem.metric if metric is None else metric
    return measure(params, problem.field, data, metric, mesh)


def measure(
    params: NSParams,
    vf: VelocityField,
    data: Pairs,
    metric: Metric = psnr,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """`evaluate` of what is known to be sound.

    Args:
      params: the solver.
      vf: the field.
      data: N pairs.
      metric: metric(x_n, x1) or metric(x_n, batch) -> (batch,).
      mesh: devices to lay each batch over; None for one.

    Returns:
      (N,), the metric of each sample.
    """
    size = PER_DEVICE * parallel.batch_devices(mesh)
    vf, of_batch = parallel.place(as_pytree(vf), mesh), as_batch_function(metric)
    params, judge, values = jax.tree.map(on_host, params), as_it_is(of_batch), []
    one = of_rows(data, np.arange(1))
    with_path = reads_path(lambda batch: of_batch(batch.x0, batch), one)
    for rows, kept in parallel.batches(data.size, size, mesh):
        batch = parallel.shard(of_rows(data, rows, with_path=with_path), mesh)
        values.append(on_host(score(judge, params, vf, batch))[:kept])
    return np.concatenate(values)


def mean_over_misses(values: np.ndarray) -> float:
    """The mean metric; a sample that is hit exactly counts as the best of the others.

    As infinity it would hide whether these get better.

    Args:
      values: (N,), of a metric of which more is better.

    Returns:
      The mean; nan or -inf where a value is.
    """
    hit = np.isposinf(values)
    if not np.all(hit):
        values = np.where(hit, np.max(values, initial=-np.inf, where=~hit), values)
    return float(np.mean(values))


@partial(jax.jit, static_argnums=0)
def score(
    metric: BatchFunction, params: NSParams, vf: VelocityField, batch: Batch
) -> jax.Array:
    """The metric of each sample of one batch.

    Args:
      metric: metric(x_n, batch) -> (batch,).
      params: the solver.
      vf: the field, a pytree.
      batch: samples.

    Returns:
      (batch,).

    Raises:
      ValueError: if the metric gives something else.
    """
    values = metric(ns.sample(params, vf, batch.x0, *batch.args), batch)
    check_per_sample(values, len(batch.weights), "metric")
    return values
