"""Checks of what a user's functions return; they run while JAX traces them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.typing import Array, Sample, wider


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

    Raises:
      ValueError: naming it, what was expected, and what came.
    """
    if not isinstance(values, jax.Array | np.ndarray):
        raise ValueError(
            f"the {what} must return one number per sample, expected an array "
            f"({batch},), got {type(values).__name__}"
        )
    if values.shape != (batch,) or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"the {what} must return one floating-point number per sample, expected "
            f"shape {(batch,)}, got {values.dtype} of shape {values.shape}"
        )
