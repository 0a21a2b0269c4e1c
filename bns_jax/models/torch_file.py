"""Files of torch.save, and pickles with torch tensors, as NumPy arrays; no torch.

There are three layouts. The present one is a zip archive: `data.pkl`, and a member per
storage. The older one is a row of pickles followed by the storages. And a plain pickle
of a network holds each storage as a file of the older kind.
"""

from __future__ import annotations

import dataclasses
import io
import math
import operator
import zipfile
from typing import IO, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bns_jax.unpickle import (
    Foreign,
    Record,
    Refused,
    StandIn,
    Unpickler,
    as_array,
    integers,
)

_MAGIC = 0x1950A86A20F9469CFC6C


def load(data: bytes) -> Any:
    """What a file holds.

    Args:
      data: the content of the file.

    Returns:
      Plain containers, arrays, and `unpickle.Record` for objects of foreign classes and
      for tensors that are no plain arrays (`is_tensor`).

    Raises:
      ValueError: if it is damaged, or no such file.
    """
    try:
        if data[:2] == b"PK":
            return _load_archive(data)
        return _load_stream(data)
    except Refused:
        raise
    # A pickle that ends early or has flipped bits fails in any way at all.
    except Exception as error:
        raise ValueError(
            f"it is truncated or damaged ({type(error).__name__}: {error})"
        ) from error


class _Storage(NamedTuple):
    """The flat numbers that tensors are views of."""

    values: np.ndarray


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
    """A view of a storage, inside of its bounds and not to be written to.

    A record, if the storage is one, or bits say that its numbers are conjugates.
    """
    if isinstance(storage, Record) or (isinstance(bits, dict) and any(bits.values())):
        return Record(f"{_REBUILD}tensor")
    if not isinstance(storage, _Storage):
        raise Refused("holds a tensor of what is no storage")
    values = storage.values
    (offset,), shape, strides = map(integers, ((offset,), shape, strides))
    if min((offset, *shape, *strides)) < 0:
        raise ValueError(f"a tensor of shape {shape} and strides {strides}")
    if 0 in shape:
        return np.zeros(shape, values.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if last >= len(values) or math.prod(shape) > max(len(values), _MOST_REPEATED):
        raise ValueError(
            f"a tensor of shape {shape} in a storage of {len(values)} numbers"
        )
    steps = [step * values.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(
        values[offset:], shape, steps, writeable=False
    )


def _typed_tensor(storage: Any, *view_and_hooks: Any) -> Any:
    """A tensor that says its dtype itself, over bytes."""
    *view, _grad, _hooks, dtype = view_and_hooks[:6]
    known = _NEWER.get(getattr(dtype, "name", ""))
    if known is None or not isinstance(storage, _Storage):
        return Record(f"{_REBUILD}tensor_v3")
    return _tensor(_Storage(storage.values.view(known)), *view)


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
    "torch.storage._load_from_bytes": lambda data: _load_inner(data),
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

_NAMES = {view.name: view for view in _VIEWS}
_NAMES |= {name: StandIn(name, function) for name, function in _OTHERS.items()}
_NAMES |= {
    name: StandIn(name, _StorageType(np.dtype(dtype)))
    for kind, dtype in (*_DTYPES.items(), ("Untyped", np.uint8))
    for name in (f"torch.{kind}Storage", f"torch.storage.{kind}Storage")
}


def is_tensor(value: Any) -> bool:
    """Whether a record stands for a tensor or array that is not read."""
    return isinstance(value, Record) and (
        value.kind.startswith((_REBUILD, "torch._tensor._rebuild_"))
        or (value.kind == "numpy.ndarray" and as_array(value) is None)
    )


def _reference(pid: Any) -> tuple[np.dtype, str, int]:
    """The dtype, key and length of a storage, from what a pickle says of it."""
    _, kind, key, _, count, *view = pid
    if not isinstance(kind, StandIn) or not isinstance(kind.function, _StorageType):
        raise Refused(f"holds a storage of unknown kind {getattr(kind, 'name', '')}")
    if not isinstance(key, str):
        raise Refused(f"holds a storage whose key is a {type(key).__name__}")
    if any(view):
        raise Refused("holds a view of a storage")
    return kind.function.dtype, key, operator.index(count)


class _Allowance:
    """How many bytes may still be read: a file has no more than its length."""

    def __init__(self, size: int):
        self.left = size

    def take(self, size: int) -> None:
        """Uses some of it.

        Raises:
          Refused: if less is left.
        """
        if not 0 <= size <= self.left:
            raise Refused(f"announces {size} bytes where {self.left} are left")
        self.left -= size


def _load_archive(data: bytes) -> Any:
    """The zip layout."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (root,) = (
            name.removesuffix("data.pkl")
            for name in archive.namelist()
            if name.endswith("/data.pkl") or name == "data.pkl"
        )
        allowance = _Allowance(len(data))
        order = f"{root}byteorder"
        is_told = order in archive.namelist()
        if is_told and _member(archive, order, allowance) != b"little":
            raise Refused("holds big-endian numbers")
        stored: dict[str, _Storage] = {}

        def storage(pid: Any) -> Any:
            if isinstance(pid[1], Foreign):
                return Record(pid[1].name)
            dtype, key, count = _reference(pid)
            if key not in stored:
                numbers = _member(archive, f"{root}data/{key}", allowance)
                values = np.frombuffer(numbers, dtype)
                if len(values) != count:
                    raise ValueError(f"storage {key} has {len(values)} of {count}")
                stored[key] = _Storage(values)
            return stored[key]

        pickled = io.BytesIO(_member(archive, f"{root}data.pkl", allowance))
        return Unpickler(pickled, _NAMES, storage).load()


def _member(archive: zipfile.ZipFile, name: str, allowance: _Allowance) -> bytes:
    """The content of a member; as torch stores it, it is no longer than the file."""
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise Refused(f"holds {name} compressed")
    allowance.take(info.file_size)
    return archive.read(info)


def _load_stream(data: bytes) -> Any:
    """The older layout, or a plain pickle."""
    file = io.BytesIO(data)
    first = Unpickler(file, _NAMES).load()
    if not isinstance(first, int) or first != _MAGIC:
        return first
    for _ in ("protocol version", "system"):
        Unpickler(file, _NAMES).load()
    stored: dict[str, _Storage] = {}
    allowance = _Allowance(len(data))

    def storage(pid: Any) -> Any:
        if pid[0] == "module":
            # A class with its source code, which is left unread.
            return pid[1]
        dtype, key, count = _reference(pid)
        if key not in stored:
            allowance.take(count * dtype.itemsize)
            # Filled below: the numbers follow after the pickle that speaks of them.
            stored[key] = _Storage(np.empty(count, dtype))
        return stored[key]

    result = Unpickler(file, _NAMES, storage).load()
    keys = Unpickler(file, _NAMES).load()
    # A storage left out would keep what the memory held before.
    if not _are_names(keys) or sorted(keys) != sorted(stored):
        raise ValueError("the storages are not those that its tensors lie in")
    for key in keys:
        _fill(stored[key].values, file)
    return result


def _are_names(keys: Any) -> bool:
    return isinstance(keys, list) and all(isinstance(key, str) for key in keys)


def _load_inner(data: Any) -> Any:
    """A file inside of a pickle, which holds one storage."""
    if not isinstance(data, bytes):
        raise Refused(f"holds a storage in a {type(data).__name__}")
    return _load_stream(data)


def _fill(values: np.ndarray, file: IO[bytes]) -> None:
    """Reads the numbers of one storage: how many, then all of them."""
    count = int.from_bytes(file.read(8), "little")
    data = file.read(values.nbytes)
    if count != len(values) or len(data) != values.nbytes:
        raise EOFError(f"a storage has {count} numbers, expected {len(values)}")
    values[:] = np.frombuffer(data, values.dtype)
