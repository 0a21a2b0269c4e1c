"""Network weights as one safetensors file that says what it holds.

The format runs no code when read. Its header carries the architecture, how the
weights were trained, and a checksum, because safetensors itself notices a truncated
file but not a flipped byte.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from bns_jax import files
from bns_jax.models.convert import unusable
from bns_jax.pytree import checksum

_CHECKSUM = "sha256"


def save(path: epath.PathLike, params: Any, metadata: Mapping[str, Any]) -> None:
    """Writes nested dictionaries of arrays to one file.

    Args:
      path: the file; local or of any scheme that etils.epath knows. Its folder is made.
      params: nested dictionaries with string keys and array leaves.
      metadata: anything JSON holds: the architecture, the figures of the training.

    Raises:
      ValueError: if a leaf is of numbers that the file has no kind for, two leaves
        have one name, or the metadata are no JSON values.
    """
    tensors = {name: _by_rows(leaf) for name, leaf in _by_name(params).items()}
    other = {k: v.dtype for k, v in tensors.items() if v.dtype not in _DTYPES.values()}
    if other:
        raise ValueError(f"expected numbers of {', '.join(_DTYPES)}, got {other}")
    header = _header(metadata)
    header[_CHECKSUM] = checksum([tensors, header])
    files.write(path, safetensors.numpy.save(tensors, header))


def _by_name(params: Any) -> dict[str, Any]:
    """The leaves, each by its keys joined by /."""
    by_path = flax.traverse_util.flatten_dict(params)
    names = ["/".join(map(str, path)) for path in by_path]
    twice = {name for name in names if names.count(name) > 1}
    if twice or not all(isinstance(key, str) for path in by_path for key in path):
        raise ValueError(
            "expected string keys that, joined by /, name each leaf by itself, got "
            f"{sorted(twice) or list(by_path)[:3]}"
        )
    return dict(zip(names, by_path.values(), strict=True))


def _header(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Each value as JSON, for the header takes texts alone."""
    try:
        return {k: json.dumps(v, allow_nan=False) for k, v in metadata.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON values: {error}") from error


def _by_rows(leaf: Any) -> np.ndarray:
    """On the host, row by row, of native numbers.

    safetensors writes the memory as it lies, whatever the strides say. What comes from
    a device has the layout that the compiler chose there.
    """
    array = np.asarray(leaf, order="C")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def check(params: Any, shapes: Any, path: epath.PathLike) -> None:
    """Checks that weights fit a network.

    Args:
      params: nested dictionaries of arrays, as `load` gives them.
      shapes: the same of `jax.ShapeDtypeStruct`, as `jax.eval_shape` gives them.
      path: where they came from, for the message.

    Raises:
      ValueError: naming each tensor that is missing, left over, of another shape, or
        of other than finite numbers where such are expected.
    """
    got = flax.traverse_util.flatten_dict(params, sep="/")
    expected = flax.traverse_util.flatten_dict(shapes, sep="/")
    faults = [f"missing {name}" for name in sorted(set(expected) - set(got))]
    faults += [f"left over {name}" for name in sorted(set(got) - set(expected))]
    faults += [
        f"{name}: expected shape {expected[name].shape}, got {got[name].shape}"
        for name in sorted(set(got) & set(expected))
        if got[name].shape != expected[name].shape
    ]
    floating = {
        name: leaf
        for name, leaf in got.items()
        if name in expected and jnp.issubdtype(expected[name].dtype, jnp.floating)
    }
    faults += unusable(floating)
    if faults:
        raise ValueError(f"{path} does not fit the network: " + "; ".join(faults))


def load(path: epath.PathLike) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a file written by `save`.

    Args:
      path: the file.

    Returns:
      The nested dictionary of arrays, and the metadata.

    Raises:
      ValueError: if the file is missing, is no such file, is truncated, or its
        contents do not have the checksum that its header names.
    """
    data = files.read(path, "weights")
    try:
        if told := files.not_data(data):
            raise ValueError(told)
        tensors = _deserialize(data)
        header_size = int.from_bytes(data[:8], "little")
        header = dict(json.loads(data[8 : 8 + header_size])["__metadata__"])
        expected = header.pop(_CHECKSUM)
        metadata = {key: json.loads(value) for key, value in header.items()}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or was not written by bns_jax.models.weights.save: "
            f"expected safetensors with metadata and a checksum, got {len(data)} "
            f"bytes ({error})"
        ) from error
    got = checksum([tensors, header])
    if got != expected:
        raise ValueError(f"{path} is damaged: expected sha256 {expected}, got {got}")
    return flax.traverse_util.unflatten_dict(tensors, sep="/"), metadata


def tensors(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file of any writer, by name.

    Args:
      data: the bytes of the file.

    Returns:
      Name -> array, not to be written to.

    Raises:
      ValueError: if it is none, or truncated, or holds numbers that NumPy lacks.
    """
    try:
        return _deserialize(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"no safetensors file, or a damaged one ({error})") from error


def _deserialize(data: bytes) -> dict[str, np.ndarray]:
    return {
        name: np.frombuffer(tensor["data"], _dtype(tensor["dtype"])).reshape(
            tensor["shape"]
        )
        for name, tensor in safetensors.deserialize(data)
    }


_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def _dtype(name: str) -> np.dtype:
    """The NumPy dtype of a safetensors one."""
    if name not in _DTYPES:
        raise ValueError(f"expected numbers of {', '.join(_DTYPES)}, got {name}")
    return np.dtype(_DTYPES[name])
