"""Layout of arrays on a mesh of one axis; jit does the rest.

On several hosts every process holds the same NumPy data and hands its own devices their
rows: nothing crosses the network to assemble a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bns_jax import kinds
from bns_jax.pytree import on_host

_BATCH = "batch"
_LEAST_SHARDED = 2**14


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, "batch", over the given devices or all of them.

    Args:
      devices: all that there are if None.

    Returns:
      The mesh.

    Raises:
      ValueError: if the devices are none, or no devices.
    """
    devices = jax.devices() if devices is None else devices
    # Those of a topology that is not there are of another class.
    if not devices or not all(hasattr(one, "device_kind") for one in devices):
        raise ValueError(f"a mesh needs a list of devices, got {devices!s:.60}")
    return Mesh(np.asarray(devices), (_BATCH,))


def check_mesh(mesh: Any) -> None:
    """Refuses what is no mesh, nor None.

    Args:
      mesh: what came.

    Raises:
      ValueError: naming what came.
    """
    expected = "a mesh, such as parallel.data_mesh()"
    kinds.check(expected, mesh, Mesh, optional=True)


def batch_devices(mesh: Mesh | None) -> int:
    """How many devices a batch is laid over; 1 without a mesh.

    Args:
      mesh: of which the first axis is the batch's; None for one device.

    Returns:
      The length of the first axis of the mesh.
    """
    check_mesh(mesh)
    return 1 if mesh is None else mesh.shape[mesh.axis_names[0]]


def check_divisible(size: int, mesh: Mesh | None) -> None:
    """Checks that a batch can be laid over the first axis of the mesh.

    Args:
      size: of the batch.
      mesh: of which the first axis is the batch's; None for one device.

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

    Args:
      tree: a pytree of arrays (batch, ...).
      mesh: of which the first axis is the batch's; None for one device.

    Returns:
      The same on the devices; as it is without a mesh.

    Raises:
      ValueError: if a leaf has no axis, or the devices do not divide it.
    """
    check_mesh(mesh)
    if mesh is None:
        return tree
    for leaf in jax.tree.leaves(tree):
        if not np.shape(leaf):
            raise ValueError(f"every leaf needs a leading batch axis, got {leaf!s:.60}")
        check_divisible(len(leaf), mesh)
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    return jax.tree.map(partial(_put, sharding), tree)


def batches(
    count: int, size: int, mesh: Mesh | None
) -> Iterator[tuple[np.ndarray, int]]:
    """Rows to work on at a time, always equally many, so that one program serves all.

    Args:
      count: rows that there are.
      size: of a batch at most, but for what the devices need.
      mesh: what the batches will be laid over.

    Yields:
      The rows of a batch, of which the last is filled up by repeating a row, and how
      many of them are not repeated.

    Raises:
      ValueError: if a batch would hold nothing.
    """
    if size < 1 or int(size) != size:
        raise ValueError(f"a batch must hold a number of rows from 1, got {size}")
    devices, parts = batch_devices(mesh), -(-count // size)
    size = -(-count // (parts * devices)) * devices
    for first in range(0, count, size):
        kept = min(size, count - first)
        yield np.minimum(np.arange(first, first + size), count - 1), kept


def replicated(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of what every device holds whole.

    Args:
      mesh: of which the first axis is the batch's; None for one device.

    Returns:
      The sharding; None without a mesh.
    """
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """Puts a copy of every leaf on every device of the mesh.

    Args:
      tree: a pytree of arrays; numbers of Python stay.
      mesh: of which the first axis is the batch's; None for one device.

    Returns:
      The same on the devices; as it is without a mesh.
    """
    check_mesh(mesh)
    if mesh is None:
        return tree
    return jax.tree.map(partial(_put, replicated(mesh)), tree)


def place(tree: Any, mesh: Mesh | None) -> Any:
    """Replicates what does not lie on the mesh's devices yet.

    Arrays that lie there, sharded in whatever way, stay as they are: weights too large
    for one device come as their owner has laid them.

    Args:
      tree: a pytree of arrays; numbers of Python stay.
      mesh: of which the first axis is the batch's; None for one device.

    Returns:
      The same on the devices; without a mesh NumPy arrays go to the default one.
    """
    check_mesh(mesh)
    if mesh is None:
        # NumPy's would travel to the device at every call.
        return _map_once(_to_device, tree)
    devices = set(mesh.devices.flat)

    def put(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and leaf.sharding.device_set == devices:
            return leaf
        return _put(replicated(mesh), leaf)

    return _map_once(put, tree)


def fsdp(tree: Any, mesh: Mesh | None, least: int = _LEAST_SHARDED) -> Any:
    """Lays each large leaf over the mesh along its longest axis that they divide.

    Args:
      tree: weights.
      mesh: of one axis.
      least: entries from which on a leaf is large; the rest is replicated.

    Returns:
      The same on the devices; as it is without a mesh.
    """
    check_mesh(mesh)
    if mesh is None:
        return tree
    count, axis_name = batch_devices(mesh), mesh.axis_names[0]

    def put(leaf: Any) -> Any:
        shape = np.shape(leaf)
        axes = [axis for axis, size in enumerate(shape) if size % count == 0]
        if np.size(leaf) < least or not axes:
            return _put(replicated(mesh), leaf)
        longest = max(axes, key=lambda axis: shape[axis])
        spec = [axis_name if axis == longest else None for axis in range(len(shape))]
        return _put(NamedSharding(mesh, PartitionSpec(*spec)), leaf)

    return _map_once(put, tree)


def _map_once(put: Callable[[Any], Any], tree: Any) -> Any:
    """Maps each leaf; one that stands in several places stays one array.

    Guidance holds the weights of a network twice, which must not take twice the memory.
    """
    leaves, structure = jax.tree.flatten(tree)
    laid = {key: put(leaf) for key, leaf in {id(leaf): leaf for leaf in leaves}.items()}
    return jax.tree.unflatten(structure, [laid[id(leaf)] for leaf in leaves])


def _to_device(leaf: Any) -> Any:
    return jax.device_put(leaf) if isinstance(leaf, np.ndarray) else leaf


def _put(sharding: Any, leaf: Any) -> Any:
    """One leaf onto the devices of a sharding, of which this process has a part.

    Python's numbers stay what they are, because as arrays they would have a dtype.
    """
    if isinstance(leaf, bool | int | float):
        return leaf
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if isinstance(leaf, jax.Array):
        if leaf.sharding == sharding:
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = _put(sharding, jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    # The dtype that jax would give it: float32 for a float64 unless x64 is on.
    whole = on_host(leaf)
    whole = whole.astype(jax.dtypes.canonicalize_dtype(whole.dtype), copy=False)
    return jax.make_array_from_callback(
        whole.shape, sharding, lambda index: whole[index]
    )
