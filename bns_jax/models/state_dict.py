"""Weights of others as one flat dictionary, name -> array, from any of their files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
from etils import epath

from bns_jax import files
from bns_jax.models import torch_file, weights
from bns_jax.models.tensors import Settings, Tensors
from bns_jax.models.torch_tensors import is_tensor
from bns_jax.unpickle import Record, as_array

_AVERAGED = ("ema", "model_ema", "ema_model", "ema_state_dict", "shadow")
_WITHIN = ("net", "state_dict", "model_state_dict", "model", "params")
"""Where training scripts put the weights beside other things; averaged ones first."""


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
      UserWarning: if there are averaged weights, but not by name, and others are read.
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
        return Tensors(weights.tensors(file.read()))
    except ValueError as error:
        raise ValueError(
            f"expected a file of torch.save, a pickle or safetensors: {error}"
        ) from error


def _weights(content: Any) -> Tensors:
    """The weights in what a file holds.

    Raises:
      ValueError: if there are none.
    """
    found = _search(content, set())
    if not found:
        raise ValueError(
            f"expected tensors by name, or a network, got {_told(content)}"
        )
    if not len(found) and found.unread:
        told = [f"{name} is a {kind}" for name, kind in found.unread.items()]
        raise ValueError(f"expected arrays of numbers; {', '.join(told[:_MOST_TOLD])}")
    if isinstance(content, Mapping):
        found.arguments = _plain(_entries(content.get("args")))
    return found


def _search(content: Any, seen: set[int]) -> Tensors | None:
    """The weights in something; each thing is looked at once."""
    if id(content) in seen:
        return None
    seen.add(id(content))
    if isinstance(content, Record):
        is_network = any(kind in content.attributes for kind in _PARTS)
        return _harvest(content) if is_network else None
    if not isinstance(content, Mapping):
        return None
    missed: list[str] = []
    for name in (*_AVERAGED, *_WITHIN):
        value = content.get(name)
        found = _search(value, seen)
        if found:
            if missed:
                warnings.warn(
                    f"no tensors by name in {missed}: those of {name!r} are read",
                    stacklevel=5,
                )
            return found
        if name in _AVERAGED and isinstance(value, Record | Mapping) and value:
            missed.append(name)
    return _only(content, seen)


def _only(content: Mapping[Any, Any], seen: set[int]) -> Tensors | None:
    """The one set of tensors that is there: these, or those of one entry.

    Beside a set of many tensors, one alone is the state of something else.

    Raises:
      ValueError: if there are several.
    """
    own = _named(content)
    inner = {k: _search(v, seen) for k, v in content.items() if isinstance(k, str)}
    sets = {f"in {k!r}": found for k, found in inner.items() if found}
    sets |= {"itself": own} if own else {}
    large = [found for found in sets.values() if len(found) + len(found.unread) > 1]
    if len(large) > 1 or (len(sets) > 1 and not large):
        raise ValueError(f"it holds several sets of tensors: {', '.join(sets)}")
    return next(iter(large or sets.values()), None)


def _named(content: Mapping[Any, Any]) -> Tensors:
    found = Tensors()
    for name, value in content.items():
        array = as_array(value)
        if not isinstance(name, str):
            continue
        if array is not None:
            found[name] = array
        elif is_tensor(value):
            found.unread[name] = value.kind
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


_MOST_NAMES = 100_000
_LONGEST_NAME = 1_000
"""Of layers and tensors. One layer may have many names, and a small file no end."""

_PARTS = ("_parameters", "_buffers", "_modules")
"""Where a layer of torch has what it consists of."""


def _harvest(network: Record) -> Tensors:
    """What a pickled network and the layers inside it hold.

    Raises:
      ValueError: if its layers are no layers, contain one another, or are too many.
    """
    found = Tensors()
    layers, count = [("", network)], 0
    while layers:
        prefix, layer = layers.pop()
        parts, settings = _parts(layer), _plain(layer.attributes)
        count += len(parts) + len(settings)
        longest = len(prefix) + max(map(len, (*dict(parts), *settings)), default=0)
        if count > _MOST_NAMES or longest > _LONGEST_NAME:
            raise ValueError("its layers contain one another, or are too many")
        found.kinds[prefix] = layer.kind
        found.settings |= {f"{prefix}{name}": v for name, v in settings.items()}
        for name, part in parts:
            array = as_array(part)
            if array is not None:
                found[prefix + name] = array
            elif is_tensor(part):
                found.unread[prefix + name] = part.kind
            elif isinstance(part, Record):
                layers.append((f"{prefix}{name}.", part))
    return found


def _parts(layer: Record) -> list[tuple[str, Any]]:
    """What a layer consists of, by name."""
    parts: list[tuple[str, Any]] = []
    for kind in _PARTS:
        named = layer.attributes.get(kind, {})
        if not isinstance(named, dict) or not all(isinstance(k, str) for k in named):
            raise ValueError(f"the {kind} of a {layer.kind} are not given by name")
        parts += named.items()
    return parts


def _entries(value: Any) -> Mapping[Any, Any]:
    """A dictionary, or the attributes of an object."""
    if isinstance(value, Record):
        return value.attributes
    return value if isinstance(value, Mapping) else {}


def _plain(entries: Mapping[Any, Any]) -> Settings:
    """The entries that are a number or a text."""
    plain = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in entries.items()
    }
    return {
        name: value
        for name, value in plain.items()
        if isinstance(name, str) and isinstance(value, int | float | str)
    }
