"""Pickles of others, read as data: nothing that they name is imported or called.

A pickle is a program that names functions and calls them. Here every name is looked up
in a table of stand-ins that build arrays and plain containers; layers of networks
become inert records of what they held; any other name is refused.
"""

from __future__ import annotations

import collections
import dataclasses
import pickle
from collections.abc import Callable, Mapping
from typing import IO, Any

import jax.numpy as jnp
import numpy as np


class Refused(ValueError):
    """A file names something that is neither an array nor a plain container."""


class Record:
    """What an object of a foreign class held.

    Attributes:
      kind: the full name of its class.
      state: its attributes.
    """

    kind = ""

    def __init__(self, *_: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        """Called by the unpickler in place of the foreign class's own method."""
        if not isinstance(state, dict):
            raise Refused(f"holds a {self.kind} whose state is no dictionary")
        self.state = state


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A callable in place of what a pickle names.

    Frozen, so that a pickle cannot write attributes to it.
    """

    name: str
    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        """Builds the object."""
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        """Refuses to be changed."""
        raise Refused(f"wants to change {self.name}")


class Unpickler(pickle.Unpickler):
    """Reads one pickle with a table of stand-ins for the names in it."""

    def __init__(
        self,
        file: IO[bytes],
        names: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None = None,
    ):
        """Prepares to read.

        Args:
          file: opened for bytes.
          names: full name -> what stands in for it, besides those of `NAMES`.
          persistent: resolves references to what lies outside the pickle.
        """
        super().__init__(file, encoding="latin1")
        self._names = {**NAMES, **names}
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name.

        Raises:
          Refused: if there is none; says the name.
        """
        full = f"{module}.{name}"
        if full in self._names:
            return self._names[full]
        if module.startswith(_LAYERS):
            return _record(full)
        raise Refused(
            f"asks for {full}; only tensors, plain containers and the layers of a "
            "network are read"
        )

    def persistent_load(self, pid: Any) -> Any:
        """What lies outside the pickle."""
        if self._persistent is None:
            raise Refused(f"refers to {str(pid)[:80]} outside of it")
        return self._persistent(pid)


_LAYERS = "torch.nn.modules."
"""Where the classes are that hold weights, and nothing else that is needed."""


def _record(kind: str) -> type[Record]:
    """A class of records, because an object of protocol 2 and later names a class."""
    return type("Record", (Record,), {"kind": kind})


def _persistent_object(meta: dict[str, Any]) -> Record:
    """An object stored with the source code of its class, which is left unread."""
    record = _record(str(meta["class_name"]))()
    record.__setstate__(dict(meta["state"]))
    return record


def _dtype(code: str, *_: Any) -> _DType:
    dtype = np.dtype(str(code))
    if dtype.hasobject:
        raise Refused("holds an array of Python objects")
    return _DType(dtype)


class _DType:
    """A NumPy dtype whose pickled state, its byte order, is taken as native."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] == ">":
            raise Refused("holds big-endian numbers")


def _encode(text: str | bytes, *_: Any) -> bytes:
    """Bytes, which old protocols write as text."""
    return text.encode("latin1") if isinstance(text, str) else bytes(text)


def _scalar(dtype: _DType, data: str | bytes) -> Any:
    return np.frombuffer(_encode(data), dtype.dtype)[0]


def _new_object(kind: Callable[[], Any], *_: Any) -> Any:
    """An object of a class, in the way of pickle protocols 0 and 1."""
    return kind()


def _stand_ins(table: Mapping[str, Callable[..., Any]]) -> dict[str, StandIn]:
    return {name: StandIn(name, function) for name, function in table.items()}


NAMES: dict[str, Any] = _stand_ins(
    {
        "collections.OrderedDict": collections.OrderedDict,
        "builtins.set": set,
        "__builtin__.set": set,
        "builtins.dict": dict,
        "_codecs.encode": _encode,
        "copyreg._reconstructor": _new_object,
        "copy_reg._reconstructor": _new_object,
        "builtins.object": dict,
        "__builtin__.object": dict,
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
        "numpy.dtype": _dtype,
        "numpy.core.multiarray.scalar": _scalar,
        "numpy._core.multiarray.scalar": _scalar,
        "torch.Size": tuple,
        "torch.device": lambda *_: None,
    }
)
"""What stands in for the names of plain things."""

# Protocol 2 wants a class here, and a pickle can change nothing of this one.
NAMES["dnnlib.util.EasyDict"] = dict

DTYPES: dict[str, np.dtype] = {
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(bool),
}
"""The dtype of each kind of storage that a torch file names."""
