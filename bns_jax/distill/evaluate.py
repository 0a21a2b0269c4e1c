"""What a solver reaches on pairs."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bns_jax import ns, parallel
from bns_jax.distill.optimizer import Metric
from bns_jax.metrics import psnr
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.pytree import as_pytree, on_host
from bns_jax.typing import Sample, VelocityField

_PER_DEVICE = 64


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
    """
    devices = parallel.batch_devices(mesh)
    size = -(-min(_PER_DEVICE * devices, data.size) // devices) * devices
    vf, values = parallel.place(as_pytree(vf), mesh), []
    params = jax.tree.map(on_host, params)
    for first in range(0, data.size, size):
        rows = np.arange(first, min(first + size, data.size))
        # The last batch is filled up, so that one program serves them all.
        filled = np.pad(rows, (0, size - len(rows)), mode="edge")
        batch = parallel.shard(take(data, filled), mesh)
        values.append(on_host(score(metric, params, vf, *batch))[: len(rows)])
    return np.concatenate(values)


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
    return metric(ns.sample(params, vf, x0, *args), x1)


def take(data: Pairs, rows: np.ndarray) -> Any:
    """(x0, x1, args) of some samples, gathered on the host."""
    kept = (data.x0, data.x1, data.args)
    return jax.tree.map(lambda leaf: np.asarray(leaf[rows]), kept)
