"""Weights of others as one flat dictionary, name -> array, from any of their files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from etils import epath

from bns_jax import files
from bns_jax.models import torch_file, weight_sets, weights
from bns_jax.models.pickled_network import plain_entries
from bns_jax.models.tensors import Tensors
from bns_jax.unpickle import Record


def read(path: epath.PathLike) -> Tensors:
    """Reads a weights file without running code of it.

    Args:
      path: of a file of torch.save (either layout), a pickle of a network as EDM
        publishes them, or a safetensors file; told apart by their first bytes.

    Returns:
      Its tensors by name; of several sets of weights the averaged one. What else the
      file holds is left out.

    Raises:
      ValueError: if the file is missing or damaged, or holds no weights, or more than
        one set of them; says what it holds instead.

    Warns:
      UserWarning: if there are averaged weights, but not by the names of those beside
        them, and these are read.
    """
    try:
        with files.opened(path, "weights") as file:
            return _tensors(file).unwrapped()
    except files.Missing:
        raise
    except ValueError as error:
        raise ValueError(f"{path} was not read: {error}") from error
    except RecursionError as error:
        raise ValueError(
            f"{path} was not read: it contains itself, or goes too deep"
        ) from error


def _tensors(file: IO[bytes]) -> Tensors:
    """The weights in an open file of any kind."""
    begin, size = file.read(512), file.seek(0, io.SEEK_END)
    file.seek(0)
    if told := files.not_data(begin):
        raise ValueError(told)
    # A header of JSON after its length, which may begin as a pickle does.
    is_safetensors = int.from_bytes(begin[:8], "little") < size and begin[8:9] == b"{"
    if begin[:2] == b"PK" or (begin[:1] == b"\x80" and not is_safetensors):
        return _weights(torch_file.load(file))
    try:
        return weight_sets.flat(dict(weights.tensors(file.read()))).read()
    except ValueError as error:
        raise ValueError(
            f"expected a file of torch.save, a pickle or safetensors: {error}"
        ) from error


def _weights(content: Any) -> Tensors:
    """The weights in what a file holds.

    Raises:
      ValueError: if there are none.
    """
    chosen = weight_sets.search(content)
    if not chosen:
        raise ValueError(
            f"expected tensors by name, or a network, got {_told(content)}"
        )
    found = chosen.read()
    if not len(found) and found.unread:
        told = [f"{name} is a {kind}" for name, kind in found.unread.items()]
        raise ValueError(f"expected arrays of numbers; {', '.join(told[:_MOST_TOLD])}")
    if isinstance(content, Mapping):
        found.arguments = plain_entries(_entries(content.get("args")))
    return found


def _told(content: Any) -> str:
    """What a file holds, in words."""
    if not isinstance(content, Mapping):
        return content.kind if isinstance(content, Record) else type(content).__name__
    told = [f"{key!r:.50}: {_short(value)}" for key, value in content.items()]
    more = ["..."] if len(told) > _MOST_TOLD else []
    return "{" + ", ".join(told[:_MOST_TOLD] + more) + "}"


_MOST_TOLD = 20


def _short(value: Any) -> str:
    if isinstance(value, Record):
        return value.kind[:100]
    if isinstance(value, np.ndarray):
        return f"array {value.shape}"
    return type(value).__name__


def _entries(value: Any) -> Mapping[Any, Any]:
    """A dictionary, or the attributes of an object."""
    if isinstance(value, Record):
        return value.attributes
    return value if isinstance(value, Mapping) else {}
