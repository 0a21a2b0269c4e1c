"""The reader of one pickle."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from bns_jax.unpickle.names import NAMES
from bns_jax.unpickle.records import (
    KEYS,
    ArrayRecord,
    DType,
    Foreign,
    Record,
    Refused,
    StandIn,
    plain,
)

_Reader: Any = pickle._Unpickler  # its type stub lacks what is overridden here

_BUFFERS = pickle.NEXT_BUFFER + pickle.READONLY_BUFFER
_EXTENSIONS = pickle.EXT1 + pickle.EXT2 + pickle.EXT4
_OTHER_CALLS = pickle.INST + pickle.OBJ
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
        """The stand-in for a name, or one that does nothing.

        Args:
          module: as the pickle has it; nothing is imported.
          name: within it.

        Returns:
          A `StandIn`, or a `Foreign`.
        """
        full = f"{module}.{name}"
        return self._names.setdefault(full, Foreign(full))

    def persistent_load(self, pid: Any) -> Any:
        """What lies outside the pickle.

        Args:
          pid: what the pickle refers to it by.

        Returns:
          What `persistent` makes of it.

        Raises:
          Refused: if nothing outside is known.
        """
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
        if isinstance(self.stack[-1], Record | StandIn | DType):
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
            if isinstance(key, KEYS):
                target[key] = value

    def load_additems(self) -> None:
        """Puts entries into a set."""
        items = plain(self.pop_mark())  # Which is another stack from here on.
        self.stack[-1].update(items)

    def load_frozenset(self) -> None:
        """Makes a set that stays as it is."""
        items = plain(self.pop_mark())
        self.append(frozenset(items))

    def load_bytearray8(self) -> None:
        """Makes bytes; the original allocates as many as a file announces.

        Raises:
          EOFError: if there are fewer than announced.
        """
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
