"""Checks of samples, and of what functions of them return while JAX traces them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.typing import Array, Sample, is_eight_bit, wider


def check_floating(name: str, tree: Any) -> None:
    """Checks that samples are real floating-point numbers, whatever their values.

    Args:
      name: of the argument.
      tree: a pytree of arrays or numbers, traced ones too.

    Raises:
      TypeError: if a leaf is no array of numbers.
      ValueError: if one is of another dtype, or there is none; names it.
    """
    if not (leaves := jax.tree.leaves(tree)):
        raise ValueError(f"expected {name} with at least one array, got {tree!r:.60}")
    if all(isinstance(leaf, jax.Array) and _is_real(leaf.dtype) for leaf in leaves):
        return  # Each call comes by here; paths are for what has to be named.
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where = f"{name}{jax.tree_util.keystr(path)}"
        _check_numbers(where, leaf)
        dtype = jnp.result_type(leaf)
        if not _is_real(dtype):
            few = " of 16 bits or more" if is_eight_bit(dtype) else ""
            raise ValueError(
                f"every leaf of {name} must be of a floating-point dtype{few}, got "
                f"{dtype} at {where}"
            )


@functools.cache
def _is_real(dtype: Any) -> bool:
    """Whether it is a floating-point dtype of 16 bits or more."""
    return jnp.issubdtype(dtype, jnp.floating) and not is_eight_bit(dtype)


def check_like(output: Sample, x: Sample, what: str) -> None:
    """Checks that a function of a sample returned something of its shape.

    Args:
      output: what it returned.
      x: a pytree of arrays.
      what: the name of the function, for the message.

    Raises:
      ValueError: naming the leaf, what was expected of it, and what came: another
        tree, another shape, or what is no real floating-point number.
    """
    trees = jax.tree.structure(output), jax.tree.structure(x)
    if not trees[0] == trees[1]:  # type: ignore[operator]
        raise ValueError(
            f"{what} must return the tree of x, {trees[1]}, got {trees[0]}"
        )
    paths = jax.tree_util.tree_leaves_with_path(output)
    for (path, leaf), x_leaf in zip(paths, jax.tree.leaves(x), strict=True):
        where = jax.tree_util.keystr(path) or "x"
        if np.shape(leaf) != np.shape(x_leaf):
            raise ValueError(
                f"{what} must return the shape of x: at {where} expected "
                f"{np.shape(x_leaf)}, got {np.shape(leaf)}"
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"{what} must return the dtype of x: at {where} expected "
                f"{jnp.result_type(x_leaf)}, got {jnp.result_type(leaf)}"
            )


def check_velocity(u: Sample, x: Sample, t: Array) -> None:
    """Checks what a velocity field returned.

    Args:
      u: what it returned.
      x: a pytree of arrays.
      t: the time that it was called with.

    Raises:
      ValueError: naming the leaf, what was expected of it, and what came: another
        tree, shape or dtype than that of x. The dtype that x and t promote to will
        do as well.
    """
    check_like(u, x, "the velocity field")
    paths = jax.tree_util.tree_leaves_with_path(u)
    for (path, leaf), x_leaf in zip(paths, jax.tree.leaves(x), strict=True):
        dtype, expected = jnp.result_type(leaf), jnp.result_type(x_leaf)
        if dtype not in (expected, wider(expected, t.dtype)):
            where = jax.tree_util.keystr(path) or "x"
            raise ValueError(
                f"the velocity field must return the dtype of x: at {where} expected "
                f"{expected}, got {dtype}; end it with .astype(x.dtype), or give x in "
                f"{dtype}"
            )


def check_per_sample(values: Any, batch: int, what: str) -> None:
    """Checks that a loss or a metric returned one real number per sample.

    Args:
      values: what it returned.
      batch: how many samples there were.
      what: "loss", "metric", ..., for the message.

    Raises:
      ValueError: naming it, what was expected, and what came.
    """
    if not hasattr(values, "shape"):
        raise ValueError(
            f"the {what} must return one number per sample, expected an array "
            f"({batch},), got {type(values).__name__}"
        )
    if values.shape != (batch,) or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"the {what} must return one floating-point number per sample, expected "
            f"shape {(batch,)}, got {values.dtype} of shape {values.shape}"
        )


def check_rows(trees: Mapping[str, Any]) -> int:
    """Checks that all leaves are arrays of one leading axis, that of the samples.

    Args:
      trees: pytrees by the name of the argument that they came as.

    Returns:
      N, at least 1.

    Raises:
      TypeError: if a leaf is no array of numbers.
      ValueError: if they are of different lengths, or there are no samples.
    """
    shapes = {}
    for name, tree in trees.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            where = f"{name}{jax.tree_util.keystr(path)}"
            _check_numbers(where, leaf)
            shapes[where] = np.shape(leaf)[:1]
    if len(set(shapes.values())) != 1 or () in shapes.values():
        raise ValueError(
            "every leaf must have one leading batch axis of equal length, got "
            + (
                ", ".join(f"{at} {shape}" for at, shape in shapes.items())
                or "no arrays"
            )
            + "; what is the same for all samples is closed over, or broadcast to them"
        )
    ((count,),) = set(shapes.values())
    if count == 0:
        raise ValueError("expected at least one sample, got none")
    return int(count)


def _check_numbers(where: str, leaf: Any) -> None:
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        raise TypeError(
            f"{where} must be numbers, got typed PRNG keys; give "
            "jax.random.key_data(keys), and wrap them again inside the field"
        )
    dtype = np.asarray(leaf).dtype if dtype is None else dtype
    if not (jnp.issubdtype(dtype, np.number) or dtype == np.bool_):
        raise TypeError(
            f"{where} must be an array of numbers, got {leaf!r:.60} of dtype {dtype}; "
            "what is none is closed over by the field"
        )
    check_byte_order(where, leaf)


def check_byte_order(where: str, leaf: Any) -> None:
    """Refuses arrays in another byte order than the machine's, which JAX takes none of.

    Args:
      where: the name of the argument, and of the leaf in it.
      leaf: an array, or anything else.

    Raises:
      TypeError: naming it, and how to turn it.
    """
    dtype = getattr(leaf, "dtype", None)
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        raise TypeError(
            f"{where} must be in the byte order of this machine, got {dtype.str}; "
            'x.astype(x.dtype.newbyteorder("=")) turns it'
        )


def check_arrays(**trees: Any) -> None:
    """Checks that all leaves are numbers, or keys of JAX, in the machine's byte order.

    Args:
      **trees: pytrees by the name of the argument that they came as.

    Raises:
      TypeError: naming the leaf, and what to do.
    """
    for name, tree in trees.items():
        if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)):
            continue
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not isinstance(leaf, jax.Array):
                _check_numbers(f"{name}{jax.tree_util.keystr(path)}", leaf)


def check_finite(name: str, tree: Any) -> None:
    """Checks that samples are finite real numbers of floating point.

    Args:
      name: of the argument.
      tree: a pytree of arrays with a leading batch axis.

    Raises:
      ValueError: naming the leaf and the first sample that is not.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        where, array = f"{name}{jax.tree_util.keystr(path)}", np.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"{where} must be of a real floating-point dtype, got {array.dtype}"
            )
        finite = np.isfinite(array.astype(np.float32) if array.itemsize < 4 else array)
        if not np.all(finite):
            sample = int(np.argwhere(~finite)[0][0])
            raise ValueError(f"{where} must be finite, sample {sample} is not")
