"""What stands for the objects that a pickle names and makes."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable
from typing import Any

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
        """Stands for an object.

        Args:
          kind: the full name of its class, or of the function that makes it.
          state: what it is given after it is made.
        """
        self.kind = kind
        self.state = state

    @property
    def attributes(self) -> dict[str, Any]:
        """Its state, where that is a dictionary."""
        return self.state if isinstance(self.state, dict) else {}

    def __setstate__(self, state: Any) -> None:
        """Called by the unpickler in place of the foreign class's own method."""
        self.state = state

    def array(self) -> np.ndarray | None:
        """The array that it stands for, if it does for one.

        Returns:
          None, but for records of tensors and arrays.
        """
        return None

    def append(self, *_: Any) -> None:
        """Takes what a foreign container is filled with, and drops it.

        Args:
          *_: what goes into it.
        """

    extend = add = update = __setitem__ = append


class ArrayRecord(Record):
    """A NumPy array, which a pickle makes first and fills later."""

    __slots__ = ("_values",)

    def __init__(self) -> None:
        super().__init__("numpy.ndarray")
        self._values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        """Fills it."""
        _, shape, dtype, fortran, data = state
        self._values = array_of(data, dtype, shape, "F" if fortran else "C")

    def array(self) -> np.ndarray | None:
        """The array; None until it is filled, and if it holds no numbers.

        Returns:
          The array, not to be written to.
        """
        return self._values


def as_array(value: Any) -> np.ndarray | None:
    """The array that something is, or None if it is none.

    Args:
      value: anything that a pickle held.

    Returns:
      The array, or None.
    """
    if isinstance(value, Record):
        return value.array()
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
        """Builds the object.

        Args:
          *args: as the pickle has them.

        Returns:
          The object.
        """
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        """Refuses to be changed."""
        raise Refused(f"wants to change {self.name}")


class DType:
    """A NumPy dtype, of which the pickled state tells the byte order."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype):
        """Stands for a dtype.

        Args:
          dtype: of native byte order.
        """
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = as_text(state[1])
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder("<" if order == "<" else ">")


def array_of(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray | None:
    """An array over bytes, not to be written to; None if it holds no numbers.

    Args:
      data: bytes, or text of an old protocol.
      dtype: a `DType`.
      shape: a tuple or list of integers from 0.
      order: "F" for columns first; anything else is "C".

    Returns:
      The array, or None.

    Raises:
      ValueError: if the shape is none, or not of as many numbers.
      Refused: if the data are neither bytes nor text.
    """
    if not isinstance(dtype, DType):
        return None
    sizes = integers(shape)
    values = np.frombuffer(encode(data), dtype.dtype)
    if min(sizes, default=0) < 0:
        raise ValueError(f"an array of shape {sizes}")
    return values.reshape(sizes, order="F" if order == "F" else "C")


def encode(value: Any, *_: Any) -> bytes:
    """Bytes, which old protocols write as text; never as many as a number says.

    Args:
      value: bytes, or text of latin-1.
      *_: the name of an encoding, not looked at.

    Returns:
      The bytes.

    Raises:
      Refused: if it is neither.
    """
    return value if isinstance(value, bytes) else as_text(value).encode("latin1")


def as_text(value: Any) -> str:
    """The same; of nested tuples a few bytes could become a text of any length.

    Args:
      value: a text.

    Returns:
      The text.

    Raises:
      Refused: if it is none.
    """
    if not isinstance(value, str):
        raise Refused(f"has a {type(value).__name__} where a name belongs")
    return value


def integers(values: Any) -> tuple[int, ...]:
    """The same as integers of Python; those of NumPy wrap around, past every check.

    Args:
      values: a tuple or list of integers.

    Returns:
      They, of Python's int.

    Raises:
      ValueError: if it is no tuple or list.
      TypeError: if one is no integer.
    """
    if not isinstance(values, tuple | list):
        raise ValueError(f"a shape or strides of kind {type(values).__name__}")
    return tuple(map(operator.index, values))


KEYS = (str, int, float, bytes, type(None))
"""The kinds of keys that dictionaries are read with."""


def plain(items: Iterable[Any]) -> list[Any]:
    """Those that may be in a set; what is nested would be hashed all the way down.

    Args:
      items: of a set.

    Returns:
      Those of `KEYS`.
    """
    return [item for item in items if isinstance(item, KEYS)]
