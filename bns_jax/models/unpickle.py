"""Pickles of others, read as data: nothing that they name is imported or called.

A pickle is a program that names functions and calls them. Here every name is looked up
in a table of stand-ins that build arrays and plain containers; layers of networks
become inert records of what they held; any other name is refused.

A program can also build much from little. The pure Python reader of the standard
library keeps that in bounds, for three reasons: it remembers objects in a dictionary,
it takes from a file no more than there is, and its opcodes can be left out.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

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
    state: dict[str, Any]

    def __new__(cls, *_: Any) -> Record:
        """An empty one; a pickle makes objects without calling `__init__`."""
        record = super().__new__(cls)
        record.state = {}
        return record

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


_Reader: Any = pickle._Unpickler  # its type stub lacks what is overridden here

# The first of these allocates as much as it announces.
_BUFFERS = pickle.BYTEARRAY8 + pickle.NEXT_BUFFER + pickle.READONLY_BUFFER
_EXTENSIONS = pickle.EXT1 + pickle.EXT2 + pickle.EXT4
_OTHER_CALLS = pickle.INST + pickle.OBJ + pickle.NEWOBJ_EX
_LEFT_OUT = _BUFFERS + _EXTENSIONS + _OTHER_CALLS
"""Opcodes that files of weights do without."""

_SIZED = (str, bytes, list, tuple, dict, set)
_MOST_CALLS = 4
"""Through how many calls a thing may pass; bytes of old protocols pass through two."""


class Unpickler(_Reader):
    """Reads one pickle with a table of stand-ins for the names in it."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        opcode: method
        for opcode, method in _Reader.dispatch.items()
        if opcode not in _LEFT_OUT
    }
    """Opcode -> the method that obeys it."""

    def __init__(
        self,
        file: io.BytesIO,
        names: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None = None,
    ):
        """Prepares to read.

        Args:
          file: where the pickle begins.
          names: full name -> what stands in for it, besides those of `NAMES`.
          persistent: resolves references to what lies outside the pickle.
        """
        super().__init__(file, encoding="latin1")
        self._source = file
        self._names = {**NAMES, **names}
        self._persistent = persistent
        self._given = 0

    def load_reduce(self) -> None:
        """Calls a stand-in."""
        self._count(self.stack[-1])
        super().load_reduce()

    def load_newobj(self) -> None:
        """Makes an object of a class."""
        self._count(self.stack[-1])
        super().load_newobj()

    def _count(self, arguments: Any) -> None:
        """Adds to what calls are given, of which they may make copies.

        For a few bytes each time a pickle can give one thing again and again.

        Raises:
          Refused: if that is more than what was read can be given.
        """
        if not isinstance(arguments, tuple):
            raise Refused(f"calls with a {type(arguments).__name__} of arguments")
        self._given += sum(len(part) for part in arguments if isinstance(part, _SIZED))
        if self._given > _MOST_CALLS * self._source.tell():
            raise Refused("copies what it holds too often")

    def load_build(self) -> None:
        """Hands an object its state, if it is one that takes some.

        Of containers that would be attributes, which say nothing of weights.
        """
        state = self.stack.pop()
        if isinstance(self.stack[-1], Record | StandIn | _DType):
            self.stack[-1].__setstate__(state)

    dispatch |= {
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_newobj,
        pickle.BUILD[0]: load_build,
    }

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
            raise Refused("refers to something outside of it")
        return self._persistent(pid)


_LAYERS = "torch.nn.modules."
"""Where the classes are that hold weights, and nothing else that is needed."""


def _record(kind: str) -> type[Record]:
    """A class of records, because an object of protocol 2 and later names a class."""
    return type("Record", (Record,), {"kind": kind})


def _persistent_object(meta: dict[str, Any]) -> Record:
    """An object stored with the source code of its class, which is left unread."""
    record = _record(_text(meta["class_name"]))()
    record.__setstate__(meta["state"])
    return record


def _text(value: Any) -> str:
    """The same; of nested tuples a few bytes could become a text of any length."""
    if not isinstance(value, str):
        raise Refused(f"has a {type(value).__name__} where a name belongs")
    return value


def _dtype(code: Any, *_: Any) -> _DType:
    dtype = np.dtype(_text(code))
    if dtype.kind in "OV":
        raise Refused("holds an array of neither numbers nor text")
    return _DType(dtype)


class _DType:
    """A NumPy dtype whose pickled state, its byte order, is taken as native."""

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if _text(state[1]) == ">":
            raise Refused("holds big-endian numbers")


def _encode(text: Any, *_: Any) -> bytes:
    """Bytes, which old protocols write as text; never as many as a number says."""
    return text if isinstance(text, bytes) else _text(text).encode("latin1")


def _scalar(dtype: _DType, data: str | bytes) -> Any:
    return np.frombuffer(_encode(data), dtype.dtype)[0]


def _new_object(kind: Callable[[], Any], *_: Any) -> Any:
    """An object of a class, in the way of pickle protocols 0 and 1."""
    return kind()


def _filled(kind: Callable[..., Any]) -> Callable[..., Any]:
    """A container, made of a list or a tuple, which are counted, and nothing else."""

    def make(items: Any = ()) -> Any:
        if not isinstance(items, list | tuple):
            raise Refused(f"fills a container from a {type(items).__name__}")
        return kind(items)

    return make


class _EasyDict(dict):
    """A class, because protocol 2 wants one here; what fills it comes later."""

    def __init__(self, *_: Any) -> None:
        super().__init__()


def _stand_ins(table: Mapping[str, Callable[..., Any]]) -> dict[str, StandIn]:
    return {name: StandIn(name, function) for name, function in table.items()}


NAMES: dict[str, Any] = _stand_ins(
    {
        "collections.OrderedDict": _filled(dict),
        "builtins.set": _filled(set),
        "__builtin__.set": _filled(set),
        "builtins.dict": _filled(dict),
        "_codecs.encode": _encode,
        "copyreg._reconstructor": _new_object,
        "copy_reg._reconstructor": _new_object,
        "builtins.object": _filled(dict),
        "__builtin__.object": _filled(dict),
        "torch_utils.persistence._reconstruct_persistent_obj": _persistent_object,
        "numpy.dtype": _dtype,
        "numpy.core.multiarray.scalar": _scalar,
        "numpy._core.multiarray.scalar": _scalar,
        "torch.Size": _filled(tuple),
        "torch.device": lambda *_: None,
    }
)
"""What stands in for the names of plain things."""

NAMES["dnnlib.util.EasyDict"] = _EasyDict

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
