"""Batches over devices: one mesh axis, and jit does the rest."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

_BATCH = "batch"


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, "batch", over the given devices or all of them."""
    return Mesh(np.asarray(devices or jax.devices()), (_BATCH,))


def shard(tree: Any, mesh: Mesh | None) -> Any:
    """Lays the leading axis of every leaf over the first axis of the mesh.

    Raises:
      ValueError: if the devices do not divide it; names the nearest sizes.
    """
    if mesh is None:
        return tree
    axis = mesh.axis_names[0]
    count = mesh.shape[axis]
    for leaf in jax.tree.leaves(tree):
        size = np.shape(leaf)[0]
        if size % count:
            below, above = size // count * count, -(-size // count) * count
            raise ValueError(
                f"a batch over {count} devices must be a multiple of {count}, got "
                f"{size}; the nearest sizes are {below} and {above}"
            )
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(axis)))


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Puts a copy of every leaf on every device of the mesh."""
    if mesh is None:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
