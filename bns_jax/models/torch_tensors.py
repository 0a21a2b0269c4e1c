"""Tensors of torch in a pickle: views of storages that lie outside of it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import operator
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from bns_jax.unpickle import Record, Refused, StandIn, integers


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """A pickle that ends early or has flipped bits fails in any way at all.

    Yields:
      Nothing.

    Raises:
      ValueError: for any error inside; `Refused` as it is.
    """
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        raise ValueError(
            f"it is truncated or damaged ({type(error).__name__}: {error})"
        ) from error


class Storage:
    """The flat numbers that tensors are views of.

    Attributes:
      dtype: of each.
      size: how many.
    """

    __slots__ = ("_load", "_values", "dtype", "size")

    def __init__(self, dtype: np.dtype, size: int, load: Callable[[], np.ndarray]):
        """Says what is there; nothing is read yet.

        Args:
          dtype: of each number.
          size: how many.
          load: load() -> (size,), called once.
        """
        self.dtype, self.size = dtype, size
        self._load = load
        self._values: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """All of them, read at the first call.

        Returns:
          (size,), of `dtype`.

        Raises:
          ValueError: if the file ends early or is damaged.
        """
        if self._values is None:
            with reported():
                self._values = self._load()
        return self._values

    def viewed(self, dtype: np.dtype) -> Storage:
        """The same bytes as other numbers.

        Args:
          dtype: of these numbers.

        Returns:
          The storage, not read yet.
        """
        size = self.size * self.dtype.itemsize // dtype.itemsize
        return Storage(dtype, size, lambda: self.values().view(dtype))


class _TensorRecord(Record):
    """A view of a storage."""

    __slots__ = ("_offset", "_shape", "_storage", "_strides")

    def __init__(
        self,
        storage: Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
    ):
        super().__init__(f"{_REBUILD}tensor")
        self._storage, self._offset = storage, offset
        self._shape, self._strides = shape, strides

    def array(self) -> np.ndarray:
        """The tensor, not to be written to."""
        dtype = self._storage.dtype
        if 0 in self._shape:
            return np.zeros(self._shape, dtype)
        return np.lib.stride_tricks.as_strided(
            self._storage.values()[self._offset :],
            self._shape,
            [step * dtype.itemsize for step in self._strides],
            writeable=False,
        )


@dataclasses.dataclass(frozen=True)
class _StorageType:
    """The kind of a storage; never called."""

    dtype: np.dtype

    def __call__(self, *_: Any) -> Any:
        raise Refused("names a storage without its numbers")


_MOST_REPEATED = 1 << 24
"""How many numbers a tensor may have that repeats fewer, as after torch's expand."""


def _tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    _grad: Any = None,
    _hooks: Any = None,
    bits: Any = None,
) -> Any:
    """A view of a storage, inside of its bounds.

    Of no known storage, or if bits say that its numbers are conjugates: none.
    """
    if isinstance(storage, Record) or (isinstance(bits, dict) and any(bits.values())):
        return Record(f"{_REBUILD}tensor")
    if not isinstance(storage, Storage):
        raise Refused("holds a tensor of what is no storage")
    (offset,), shape, strides = map(integers, ((offset,), shape, strides))
    _check_bounds(storage.size, offset, shape, strides)
    return _TensorRecord(storage, offset, shape, strides)


def _check_bounds(
    size: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    """Checks that a view stays inside of its storage, and is of no wild size."""
    if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
        raise ValueError(f"a tensor of shape {shape} and strides {strides}")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    is_large = math.prod(shape) > max(size, _MOST_REPEATED)
    if 0 not in shape and (last >= size or is_large):
        raise ValueError(f"a tensor of shape {shape} in a storage of {size} numbers")


def _typed_tensor(storage: Any, *view_and_hooks: Any) -> Any:
    """A tensor that says its dtype itself, over bytes."""
    *view, _grad, _hooks, dtype = view_and_hooks[:6]
    known = _NEWER.get(getattr(dtype, "name", ""))
    if known is None or not isinstance(storage, Storage):
        return Record(f"{_REBUILD}tensor_v3")
    return _tensor(storage.viewed(known), *view)


def _same(data: Any, *_: Any) -> Any:
    """A parameter is the tensor in it."""
    return data


def _of_class(function: Any, _: Any, arguments: Any, *state: Any) -> Any:
    """A tensor that has attributes, or is of another class; of these it loses both."""
    if function in _VIEWS:
        return function(*arguments)
    return Record(f"{_REBUILD}from_type")


def _from_numpy(data: Any, *_: Any) -> Any:
    """A tensor that lay on a device without storages."""
    return data if isinstance(data, np.ndarray | Record) else Record(f"{_REBUILD}numpy")


_REBUILD = "torch._utils._rebuild_"
_VIEWS = [
    StandIn(f"{_REBUILD}tensor_v2", _tensor),
    StandIn(f"{_REBUILD}tensor", _tensor),
    StandIn(f"{_REBUILD}tensor_v3", _typed_tensor),
    StandIn(f"{_REBUILD}parameter", _same),
    StandIn(f"{_REBUILD}parameter_with_state", _same),
]
_OTHERS: dict[str, Any] = {
    "torch._tensor._rebuild_from_type": _of_class,
    "torch._tensor._rebuild_from_type_v2": _of_class,
    f"{_REBUILD}device_tensor_from_numpy": _from_numpy,
    f"{_REBUILD}device_tensor_from_cpu_tensor": _same,
}
_DTYPES: dict[str, Any] = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": jnp.bfloat16,
    "ComplexDouble": np.complex128,
    "ComplexFloat": np.complex64,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
    "QInt8": np.int8,
    "QUInt8": np.uint8,
    "QInt32": np.int32,
    "QUInt4x2": np.uint8,
    "QUInt2x4": np.uint8,
}
"""The numbers in each kind of storage; those of Q are a quantized tensor's."""
_NEWER = {
    f"torch.{kind}": np.dtype(getattr(jnp, kind))
    for kind in (
        "uint16",
        "uint32",
        "uint64",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    )
}
"""The dtypes that torch has no kind of storage for."""

NAMES = {view.name: view for view in _VIEWS}
NAMES |= {name: StandIn(name, function) for name, function in _OTHERS.items()}
NAMES |= {
    name: StandIn(name, _StorageType(np.dtype(dtype)))
    for kind, dtype in (*_DTYPES.items(), ("Untyped", np.uint8))
    for name in (f"torch.{kind}Storage", f"torch.storage.{kind}Storage")
}


def is_tensor(value: Any) -> bool:
    """Whether a record stands for a tensor or an array, read or not.

    Args:
      value: anything that a pickle held.

    Returns:
      True for such records.
    """
    kinds = (_REBUILD, "torch._tensor._rebuild_", "numpy.ndarray")
    return isinstance(value, Record) and value.kind.startswith(kinds)


def reference(pid: Any) -> tuple[np.dtype, str, int]:
    """The dtype, key and length of a storage, from what a pickle says of it.

    Args:
      pid: the tuple of a persistent id.

    Returns:
      They, the length in numbers.

    Raises:
      Refused: if it is no storage of numbers.
    """
    _, kind, key, _, count, *view = pid
    if not isinstance(kind, StandIn) or not isinstance(kind.function, _StorageType):
        raise Refused(f"holds a storage of unknown kind {getattr(kind, 'name', '')}")
    if not isinstance(key, str):
        raise Refused(f"holds a storage whose key is a {type(key).__name__}")
    if any(view):
        raise Refused("holds a view of a storage")
    return kind.function.dtype, key, operator.index(count)
