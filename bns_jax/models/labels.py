"""Class labels: checked where they are known, and never another class where not.

Labels run from 0 to num_classes - 1, and num_classes stands for none: it asks for the
unconditional prediction. Inside of jit their values are not known. There a label
outside of this range gives nan, and spoils its own sample alone.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def of_batch(label: Any, x: jax.Array, num_classes: int) -> jax.Array:
    """The labels of a batch, checked as far as they are known.

    Args:
      label: what the network was called with.
      x: the batch, (B, ...).
      num_classes: without the null label.

    Returns:
      (B,), of int32 or a wider integer.

    Raises:
      ValueError: if they are no integers (B,), or known and out of range.
    """
    check_shape(label, (len(x),))
    if not isinstance(label, jax.core.Tracer):
        check_range(label, num_classes)
    label = jnp.asarray(label)
    # The number of classes must fit too.
    return label.astype(jnp.int32) if label.dtype.itemsize < 4 else label


def or_nan(values: jax.Array, label: Any, num_classes: int) -> jax.Array:
    """Values (B, features) that a network has for its labels, nan for impossible ones.

    Args:
      values: one row per label, of any content where the label is out of range.
      label: as `of_batch` gives them.
      num_classes: without the null label.

    Returns:
      (B, features), like values.
    """
    exists = (label >= 0) & (label <= num_classes)
    return jnp.where(exists[:, None], values, jnp.nan)


def check_args(args: tuple[Any, ...], num_classes: int, null: bool = True) -> None:
    """Checks the conditioning of many samples, if it is labels that are asked for.

    Args:
      args: what follows x in a call of the field, concrete.
      num_classes: without the null label; 0 if there are no classes.
      null: whether there is a null label.

    Raises:
      ValueError: unless they are one array of integers (N,) in range; if there are no
        classes, anything passes.
    """
    if not num_classes:
        return
    label = only(args)
    check_shape(label, np.shape(label)[:1] or (1,))
    check_range(label, num_classes, null)


def only(args: tuple[Any, ...]) -> Any:
    """The labels, where they are the whole conditioning.

    Args:
      args: what follows x in a call of the field.

    Returns:
      The labels.

    Raises:
      ValueError: if there are none, or more than they.
    """
    if len(args) != 1:
        raise ValueError(f"expected labels (batch,), got {len(args)} arguments")
    if args[0] is None:
        raise ValueError("expected labels (batch,), got none")
    return args[0]


def check_shape(label: Any, shape: tuple[int, ...]) -> None:
    """Checks what is known of labels even inside of jit.

    Args:
      label: what is said to be labels.
      shape: that they must have.

    Raises:
      ValueError: if they are of another shape, or no integers.
    """
    if label is None:
        raise ValueError("expected labels (batch,), got none")
    dtype = jnp.result_type(label)
    if np.shape(label) != shape or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers, one per sample: expected shape {shape}, got "
            f"{dtype} of shape {np.shape(label)}"
        )


def check_range(label: Any, num_classes: int, null: bool = True) -> None:
    """Checks labels whose values are known.

    Args:
      label: integers, concrete.
      num_classes: without the null label.
      null: whether there is a null label.

    Raises:
      ValueError: if one is out of range; names the first few and their place.
    """
    values = np.asarray(label)
    wrong = np.flatnonzero((values < 0) | (values >= num_classes + null))
    if wrong.size:
        none = f", and {num_classes} is none" if null else ""
        raise ValueError(
            f"labels run from 0 to {num_classes - 1}{none}; got "
            f"{sorted(set(values[wrong].tolist()))[:5]}, first for sample {wrong[0]}"
        )
