"""A state as a flat dict of its leaves, which orbax saves whatever the tree.

Orbax joins key paths with dots, so that two leaves may meet in one name, and has no
place for arrays without entries or for NumPy's scalars. So leaves go by number.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

_COUNT = "count"


def describe(state: Any) -> dict[str, str]:
    """The path, dtype and shape of every leaf: what decides whether a state fits.

    Args:
      state: a pytree of arrays and numbers.

    Returns:
      Path -> dtype and shape as text, such as "float32[2, 3]".

    Raises:
      ValueError: if the state is a bare array or number, or holds none; if a leaf is
        neither, or two leaves have the same path.
    """
    leaves = jax.tree_util.tree_leaves_with_path(state)
    if not leaves or leaves[0][1] is state:
        raise ValueError(
            "a state must be a dict, tuple or other tree with arrays in it, got "
            f"{'a bare' if leaves else 'an empty'} {type(state).__name__}"
        )
    described: dict[str, str] = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path)
        if name in described:
            raise ValueError(f"a state must not hold two leaves at one path, {name}")
        described[name] = _describe(name, leaf)
    return described


def check_values(state: Any) -> None:
    """Checks that every leaf has a value.

    Args:
      state: a pytree of arrays and numbers.

    Raises:
      ValueError: if one is traced, or has been deleted.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if isinstance(leaf, jax.core.Tracer):
            reason = "is traced: save outside of jit"
        elif isinstance(leaf, jax.ShapeDtypeStruct):
            reason = "is a shape alone"
        elif isinstance(leaf, jax.Array) and leaf.is_deleted():
            reason = "has been deleted or donated"
        else:
            continue
        name = jax.tree_util.keystr(path)
        raise ValueError(f"the leaves of a state must have values, but {name} {reason}")


def pack(state: Any) -> dict[str, Any]:
    """The leaves that have entries, by their number.

    Args:
      state: a pytree of arrays and numbers.

    Returns:
      "0", "1", ... -> leaf, numbers as NumPy arrays; and how many there are.
    """
    leaves = jax.tree.leaves(state)
    numbered = {str(i): _array(leaf) for i, leaf in enumerate(leaves) if np.size(leaf)}
    return {_COUNT: np.asarray(len(leaves)), **numbered}


def abstract(like: Any) -> dict[str, Any]:
    """What orbax restores a packed state into.

    Args:
      like: a pytree of the same structure, shapes and dtypes.

    Returns:
      As `pack`, of `jax.ShapeDtypeStruct` with the shardings of `like`.
    """
    packed = pack(like)
    return {
        key: leaf
        if isinstance(leaf, jax.ShapeDtypeStruct)
        else ocp.utils.to_shape_dtype_struct(leaf)
        for key, leaf in packed.items()
    }


def unpack(packed: dict[str, Any], like: Any) -> Any:
    """The inverse of `pack`.

    Args:
      packed: what orbax restored.
      like: a pytree of the same structure.

    Returns:
      The state; its numbers have the types of those in `like`.
    """
    leaves, structure = jax.tree.flatten(like)

    def leaf_like(i: int, leaf: Any) -> Any:
        if not np.size(leaf):
            return _empty(leaf)
        found = packed[str(i)]
        return type(leaf)(found[()]) if _is_number(leaf) else found

    return jax.tree.unflatten(
        structure, [leaf_like(i, leaf) for i, leaf in enumerate(leaves)]
    )


def _describe(name: str, leaf: Any) -> str:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None and _is_number(leaf) and not np.asarray(leaf).dtype.hasobject:
        # As an array of jax it would have this dtype.
        dtype = jax.dtypes.canonicalize_dtype(np.asarray(leaf).dtype)
    known = dtype is not None and any(
        jax.dtypes.issubdtype(dtype, kind)
        for kind in (np.number, np.bool_, jax.dtypes.prng_key)
    )
    if not known:
        raise ValueError(
            f"the leaves of a state must be arrays or numbers, got {name}: "
            f"{type(leaf).__name__}{'' if dtype is None else f' of {dtype}'}"
        )
    return f"{dtype}{list(np.shape(leaf))}"


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float | complex | np.generic)


def _array(leaf: Any) -> Any:
    return np.asarray(leaf) if _is_number(leaf) else leaf


def _empty(leaf: Any) -> Any:
    """An array without entries, of which one is like another."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    return jax.numpy.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
