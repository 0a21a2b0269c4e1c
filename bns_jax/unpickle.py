"""Pickles of others, read as data: nothing that they name is imported or called.

A pickle is a program that names functions and calls them. Here every name is looked up
in a table of stand-ins that build arrays and plain containers. Any other name, and what
it is called with, becomes an inert record.

A program can also build much from little. The pure Python reader of the standard
library keeps that in bounds, for three reasons: it remembers objects in a dictionary,
it takes from a file no more than there is, and its opcodes can be left out.
"""

from __future__ import annotations

import dataclasses
import io
import operator
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import numpy as np


class Refused(ValueError):
    """A file wants what no file of arrays and plain containers needs."""


class Record:
    """What stands for an object of a foreign class.

    Attributes:
      kind: the full name of its class, or of the function that makes it.
      state: what it is given after it is made; a dictionary of attributes as a rule.
    """

    __slots__ = ("kind", "state")

    def __init__(self, kind: str, state: Any = None):
        self.kind = kind
        self.state = state

    @property
    def attributes(self) -> dict[str, Any]:
        """Its state, where that is a dictionary."""
        return self.state if isinstance(self.state, dict) else {}

    def __setstate__(self, state: Any) -> None:
        """Called by the unpickler in place of the foreign class's own method."""
        self.state = state

    def append(self, *_: Any) -> None:
        """Takes what a foreign container is filled with, and drops it."""

    extend = add = __setitem__ = append


class ArrayRecord(Record):
    """A NumPy array, which a pickle makes first and fills later.

    Attributes:
      values: the array; None until it is filled, and if it holds no numbers.
    """

    __slots__ = ("values",)

    def __init__(self) -> None:
        super().__init__("numpy.ndarray")
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        """Fills it."""
        _, shape, dtype, fortran, data = state
        self.values = _array(data, dtype, shape, "F" if fortran else "C")


def as_array(value: Any) -> np.ndarray | None:
    """The array that something is, or None if it is none."""
    if isinstance(value, ArrayRecord):
        return value.values
    return value if isinstance(value, np.ndarray) else None


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A name that is not known here, in place of a class, a function or a constant."""

    name: str


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

_BUFFERS = pickle.NEXT_BUFFER + pickle.READONLY_BUFFER
_EXTENSIONS = pickle.EXT1 + pickle.EXT2 + pickle.EXT4
_OTHER_CALLS = pickle.INST + pickle.OBJ
_LEFT_OUT = _BUFFERS + _EXTENSIONS + _OTHER_CALLS
"""Opcodes that files of weights do without."""

_SIZED = (str, bytes, list, tuple, dict, set)
_MOST_CALLS = 4
"""Through how many calls a thing may pass; bytes of old protocols pass through two."""

_KEYS = (str, int, float, bytes, type(None))


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
        names: Mapping[str, Any] | None = None,
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
        self._names = {**NAMES, **(names or {})}
        self._persistent = persistent
        self._given = 0

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name, or one that does nothing."""
        full = f"{module}.{name}"
        return self._names.setdefault(full, Foreign(full))

    def persistent_load(self, pid: Any) -> Any:
        """What lies outside the pickle."""
        if self._persistent is None:
            raise Refused("refers to something outside of it")
        return self._persistent(pid)

    def load_reduce(self) -> None:
        """Calls a stand-in."""
        arguments = self.stack.pop()
        self.append(self._made(self.stack.pop(), arguments))

    def load_newobj_ex(self) -> None:
        """Makes an object of a class, whose keywords are left out."""
        self.stack.pop()
        self.load_reduce()

    def _made(self, function: Any, arguments: Any) -> Any:
        """What a call gives."""
        if isinstance(function, Foreign):
            return Record(function.name)
        if isinstance(function, Record):
            return Record(function.kind)
        if not isinstance(function, StandIn):
            raise Refused(f"calls a {type(function).__name__}")
        self._count(arguments)
        return function(*arguments)

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
        if isinstance(self.stack[-1], ArrayRecord):
            self._count(state)
        if isinstance(self.stack[-1], Record | StandIn | _DType):
            self.stack[-1].__setstate__(state)

    def load_setitem(self) -> None:
        """Puts one entry into a dictionary."""
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def load_setitems(self) -> None:
        """Puts entries into a dictionary."""
        self._put(self.pop_mark())

    def _put(self, items: list[Any]) -> None:
        """Entries go by plain keys; an optimizer's, say, may go by its parameters."""
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, _KEYS):
                target[key] = value

    def load_additems(self) -> None:
        """Puts entries into a set."""
        self.stack[-1].update(_plain(self.pop_mark()))

    def load_frozenset(self) -> None:
        """Makes a set that stays as it is."""
        self.append(frozenset(_plain(self.pop_mark())))

    def load_bytearray8(self) -> None:
        """Makes bytes; the original allocates as many as a file announces."""
        length = int.from_bytes(self.read(8), "little")
        data = self.read(length)
        if len(data) != length:
            raise EOFError(f"{length} bytes announced, {len(data)} there")
        self.append(data)

    dispatch |= {
        pickle.REDUCE[0]: load_reduce,
        pickle.NEWOBJ[0]: load_reduce,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.ADDITEMS[0]: load_additems,
        pickle.FROZENSET[0]: load_frozenset,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def _plain(items: Iterable[Any]) -> list[Any]:
    """Those that may be in a set; what is nested would be hashed all the way down."""
    return [item for item in items if isinstance(item, _KEYS)]


def _persistent_object(meta: dict[str, Any]) -> Record:
    """An object stored with the source code of its class, which is left unread."""
    return Record(_text(meta["class_name"]), meta["state"])


def _text(value: Any) -> str:
    """The same; of nested tuples a few bytes could become a text of any length."""
    if not isinstance(value, str):
        raise Refused(f"has a {type(value).__name__} where a name belongs")
    return value


def integers(values: Any) -> tuple[int, ...]:
    """The same as integers of Python; those of NumPy wrap around, past every check."""
    if not isinstance(values, tuple | list):
        raise ValueError(f"a shape or strides of kind {type(values).__name__}")
    return tuple(map(operator.index, values))


class _DType:
    """A NumPy dtype, of which the pickled state tells the byte order."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = _text(state[1])
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder("<" if order == "<" else ">")


def _dtype(code: Any, *_: Any) -> _DType | Record:
    dtype = np.dtype(_text(code))
    return Record("numpy.dtype") if dtype.kind in "OVmM" else _DType(dtype)


def _array(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray | None:
    """An array over bytes, not to be written to; None if it holds no numbers."""
    if not isinstance(dtype, _DType):
        return None
    sizes = integers(shape)
    values = np.frombuffer(_encode(data), dtype.dtype)
    if min(sizes, default=0) < 0:
        raise ValueError(f"an array of shape {sizes}")
    return values.reshape(sizes, order="F" if order == "F" else "C")


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> Any:
    values = _array(data, dtype, shape, order)
    return Record("numpy.ndarray") if values is None else values


def _encode(text: Any, *_: Any) -> bytes:
    """Bytes, which old protocols write as text; never as many as a number says."""
    return text if isinstance(text, bytes) else _text(text).encode("latin1")


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _DType):
        return Record("numpy.generic")
    return np.frombuffer(_encode(data), dtype.dtype)[0]


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
    return {key: value for key, value in items if isinstance(key, _KEYS)}


def _stand_ins(table: Mapping[str, Callable[..., Any]]) -> dict[str, StandIn]:
    return {name: StandIn(name, function) for name, function in table.items()}


NAMES: dict[str, Any] = _stand_ins(
    {
        "collections.OrderedDict": _filled(_dictionary),
        "collections.defaultdict": lambda *_: {},
        "builtins.set": _filled(lambda items: set(_plain(items))),
        "__builtin__.set": _filled(lambda items: set(_plain(items))),
        "builtins.dict": _filled(_dictionary),
        "_codecs.encode": _encode,
        "builtins.bytearray": lambda data=b"", *_: _encode(data),
        "__builtin__.bytearray": lambda data=b"", *_: _encode(data),
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
