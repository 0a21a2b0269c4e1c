"""From the layout of torch's weights to that of Flax, by the names of the layers.

The networks here name their layers as the published files do. What is left is that
torch calls kernels, scales and embeddings "weight", and puts a kernel's outputs first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np

from bns_jax.models.tensors import StateDict

_WEIGHTS = ("kernel", "scale", "embedding")

Layout = dict[str, tuple[int, ...]]
"""The name of each tensor in a file -> its shape there."""


def layout(shapes: Any) -> Layout:
    """The names and shapes that the tensors of a network have in a file.

    Args:
      shapes: its parameters, arrays or `jax.ShapeDtypeStruct`.

    Returns:
      Name -> shape.
    """
    flat = flax.traverse_util.flatten_dict(shapes)
    return {_name(path): _shape(path, leaf.shape) for path, leaf in flat.items()}


def to_flax(tensors: StateDict, shapes: Any) -> Any:
    """The parameters of a network, float32, from the tensors of a file.

    Args:
      tensors: by name; exactly those of `layout(shapes)`.
      shapes: the parameters of the network as shapes and dtypes.

    Returns:
      Nested dictionaries of NumPy arrays.
    """
    flat = flax.traverse_util.flatten_dict(shapes)
    return flax.traverse_util.unflatten_dict(
        {path: _values(path, tensors[_name(path)]) for path in flat}
    )


def differences(tensors: Mapping[str, np.ndarray], expected: Layout) -> list[str]:
    """What is missing, left over or of another shape; empty if nothing is.

    Args:
      tensors: by name.
      expected: name -> shape.

    Returns:
      One line for each.
    """
    faults = [f"missing {name}" for name in sorted(set(expected) - set(tensors))]
    faults += [f"left over {name}" for name in sorted(set(tensors) - set(expected))]
    return faults + misfits(tensors, expected)


def misfits(tensors: Mapping[str, np.ndarray], expected: Layout) -> list[str]:
    """Those of the tensors that have another shape than expected.

    Args:
      tensors: by name.
      expected: name -> shape.

    Returns:
      One line for each; those of other names are passed over.
    """
    return [
        f"{name}: expected shape {expected[name]}, got {tensors[name].shape}"
        for name in sorted(set(tensors) & set(expected))
        if tensors[name].shape != expected[name]
    ]


def unusable(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Those of the tensors that are no weights: no finite numbers, or not floating.

    Args:
      tensors: by name.

    Returns:
      One line for each.
    """
    faults = []
    for name, values in sorted(tensors.items()):
        if not jnp.issubdtype(values.dtype, jnp.floating):
            faults.append(
                f"{name}: expected floating-point numbers, got {values.dtype}"
            )
            continue
        with np.errstate(over="ignore"):
            narrow = np.asarray(values, np.float32)
        infinite = narrow.size - np.count_nonzero(np.isfinite(narrow))
        if infinite:
            faults.append(f"{name}: {infinite} numbers are not finite in float32")
    return faults


def _name(path: tuple[str, ...]) -> str:
    *layer, leaf = path
    return ".".join([*layer, "weight" if leaf in _WEIGHTS else leaf])


def _shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """(..., inputs, outputs) -> (outputs, inputs, ...)."""
    return (*shape[:-3:-1], *shape[:-2]) if path[-1] == "kernel" else shape


def _values(path: tuple[str, ...], values: np.ndarray) -> np.ndarray:
    if path[-1] == "kernel":
        values = values.transpose(*range(2, values.ndim), 1, 0)
    return np.ascontiguousarray(values, np.float32)
