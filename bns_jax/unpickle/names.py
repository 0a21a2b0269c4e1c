"""What stands in for the names of plain things."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from bns_jax.unpickle.records import (
    KEYS,
    ArrayRecord,
    DType,
    Record,
    Refused,
    StandIn,
    array_of,
    as_text,
    encode,
    plain,
)


def _persistent_object(meta: dict[str, Any]) -> Record:
    """An object stored with the source code of its class, which is left unread."""
    return Record(as_text(meta["class_name"]), meta["state"])


def _dtype(code: Any, *_: Any) -> DType | Record:
    dtype = np.dtype(as_text(code))
    return Record("numpy.dtype") if dtype.kind in "OVmM" else DType(dtype)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    values = array_of(data, dtype, shape, order)
    return Record("numpy.ndarray") if values is None else values


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, DType):
        return Record("numpy.generic")
    return np.frombuffer(encode(data), dtype.dtype)[0]


def _new_object(kind: Any, *_: Any) -> Any:
    """An object of a class, in the way of pickle protocols 0 and 1."""
    return kind() if isinstance(kind, StandIn) else Record(kind.name)


def _filled(kind: Callable[..., Any]) -> Callable[..., Any]:
    """A container, made of a list or a tuple, which are counted, and nothing else."""

    def make(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple):
            raise Refused(f"fills a container from a {type(items).__name__}")
        return kind(items)

    return make


def _dictionary(items: Iterable[Any]) -> dict[Any, Any]:
    return {key: value for key, value in items if isinstance(key, KEYS)}


def _stand_ins(table: Mapping[str, Callable[..., Any]]) -> dict[str, StandIn]:
    return {name: StandIn(name, function) for name, function in table.items()}


NAMES: dict[str, Any] = _stand_ins(
    {
        "collections.OrderedDict": _filled(_dictionary),
        "collections.defaultdict": lambda *_: {},
        "builtins.set": _filled(lambda items: set(plain(items))),
        "__builtin__.set": _filled(lambda items: set(plain(items))),
        "builtins.dict": _filled(_dictionary),
        "_codecs.encode": encode,
        "builtins.bytearray": lambda data=b"", *_: encode(data),
        "__builtin__.bytearray": lambda data=b"", *_: encode(data),
        "copyreg._reconstructor": _new_object,
        "copy_reg._reconstructor": _new_object,
        "builtins.object": _filled(_dictionary),
        "__builtin__.object": _filled(_dictionary),
        "dnnlib.util.EasyDict": lambda *_: {},
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
        "numpy.dtype": _dtype,
        "numpy.core.multiarray.scalar": _scalar,
        "numpy._core.multiarray.scalar": _scalar,
        "numpy.core.multiarray._reconstruct": lambda *_: ArrayRecord(),
        "numpy._core.multiarray._reconstruct": lambda *_: ArrayRecord(),
        "numpy.core.numeric._frombuffer": _from_buffer,
        "numpy._core.numeric._frombuffer": _from_buffer,
        "torch.Size": _filled(tuple),
        "torch.device": lambda *_: None,
    }
)
"""What stands in for the names of plain things."""
