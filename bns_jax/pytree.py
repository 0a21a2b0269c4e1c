"""What tells one thing from another: callables as pytrees, checksums, differences."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def as_pytree(function: Any) -> Any:
    """A callable that may be an argument of a jitted function.

    Callables that are pytrees (`jax.tree_util.Partial`, modules) come back as they
    are, others as the static part of a `Partial`.

    Raises:
      ValueError: if it cannot be called.
    """
    if not callable(function):
        raise ValueError(f"expected a function, got {type(function).__name__}")
    if jax.tree_util.all_leaves([function]):
        return jax.tree_util.Partial(function)
    return function


def on_host(leaf: Any) -> np.ndarray:
    """One array as NumPy, gathered where it lies on the devices of several processes.

    All of these must then call it.
    """
    if isinstance(leaf, jax.Array) and not (
        leaf.is_fully_addressable or leaf.is_fully_replicated
    ):
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def checksum(tree: Any) -> str:
    """SHA-256 over the paths, dtypes, shapes and bytes of all leaves.

    Typed PRNG keys count by their key data. The structure enters through the paths
    alone, so a named tuple and a restored copy of it agree.

    Returns:
      64 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(
            leaf.dtype, jax.dtypes.prng_key
        ):
            leaf = jax.random.key_data(leaf)
        array = on_host(leaf)
        header = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape};"
        digest.update(header.encode())
        # Without a copy: it may be mapped from a file larger than the memory.
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The entries in which two records differ, side by side as text."""
    return [
        f"{key}: there {there.get(key)!r}, here {here.get(key)!r}"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
    ]
