"""What every metric asks of its input, checked in one place."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax.checks import check_byte_order
from bns_jax.typing import Sample, is_eight_bit


def check_pair(x: Sample, target: Sample) -> None:
    """Refuses samples that are not of the shapes of their targets; works under jit.

    Args:
      x: a pytree of arrays with a leading batch axis.
      target: likewise.

    Raises:
      ValueError: if their structures, shapes or batches differ, a sample has no
        entries, or their numbers are complex.
      TypeError: if a leaf is no array of numbers.
    """
    leaves, others = jax.tree.leaves(x), jax.tree.leaves(target)
    tree: Any = jax.tree.structure(x)
    other_tree: Any = jax.tree.structure(target)
    if tree != other_tree or not leaves:
        raise ValueError(
            f"expected samples and targets of one structure, got {tree} and "
            f"{other_tree}"
        )
    pairs = list(zip(leaves, others, strict=True))
    for pair in pairs:
        for leaf in pair:
            check_real(leaf)
        shape, other = map(np.shape, pair)
        if shape != other:
            raise ValueError(
                f"expected samples and targets of one shape, got {shape} and {other}"
            )
        if not shape or shape[:1] != np.shape(pairs[0][0])[:1] or 0 in shape[1:]:
            raise ValueError(
                "expected samples of at least one number with one leading batch axis, "
                f"got shape {shape}"
            )


def check_real(array: Any) -> None:
    """Refuses what holds no real numbers.

    Args:
      array: of NumPy or JAX, traced or not.

    Raises:
      ValueError: if its numbers are complex, or floats of 8 bits.
      TypeError: if it is no array of numbers, or of another byte order.
    """
    dtype = getattr(array, "dtype", None) or np.asarray(array).dtype
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"expected real numbers, got {dtype}")
    if is_eight_bit(dtype):
        raise ValueError(f"expected numbers of 16 bits or more, got {dtype}")
    if not (jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_):
        raise TypeError(f"expected an array of numbers, got {dtype}")
    check_byte_order("a sample", array)
