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


def batch_devices(mesh: Mesh | None) -> int:
    """How many devices a batch is laid over; 1 without a mesh."""
    return 1 if mesh is None else mesh.shape[mesh.axis_names[0]]


def check_divisible(size: int, mesh: Mesh | None) -> None:
    """Checks that a batch can be laid over the first axis of the mesh.

    Raises:
      ValueError: if the devices do not divide it; names the nearest sizes.
    """
    count = batch_devices(mesh)
    if size % count:
        below, above = size // count * count, -(-size // count) * count
        nearest = f"sizes are {below} and {above}" if below else f"size is {above}"
        raise ValueError(
            f"a batch over {count} devices must be a multiple of {count}, got {size}; "
            f"the nearest {nearest}"
        )


def shard(tree: Any, mesh: Mesh | None) -> Any:
    """Lays the leading axis of every leaf over the first axis of the mesh.

    Raises:
      ValueError: if a leaf has no axis, or the devices do not divide it.
    """
    if mesh is None:
        return tree
    for leaf in jax.tree.leaves(tree):
        if not np.shape(leaf):
            raise ValueError(f"every leaf needs a leading batch axis, got {leaf}")
        check_divisible(len(leaf), mesh)
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(mesh.axis_names[0])))


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Puts a copy of every leaf on every device of the mesh."""
    if mesh is None:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
