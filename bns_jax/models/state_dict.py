"""Weights of others as one flat dictionary, name -> array, from any of their files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from bns_jax.models import torch_file, weights
from bns_jax.models.unpickle import Record

StateDict = dict[str, np.ndarray]
"""The layout's own name of each tensor -> its values."""


class Pickled(StateDict):
    """The tensors of a pickled network.

    Attributes:
      kind: the name of its class.
      settings: the numbers and texts that it and its layers hold besides, by the same
        names: "sigma_data", "blocks.0.attn.num_heads", ...
    """

    kind = ""
    settings: dict[str, int | float | str]


_WITHIN = ("ema", "state_dict", "model")
"""Where training scripts put the weights beside other things; averaged ones first."""


def read(path: epath.PathLike) -> StateDict:
    """Reads a weights file without running code of it.

    Args:
      path: of a file of torch.save (either layout), a pickle of a network as EDM
        publishes them, or a safetensors file; told apart by their first bytes.

    Returns:
      Its tensors by name; of several sets of weights the averaged one.

    Raises:
      ValueError: if the file is missing or damaged, holds no weights, or asks for
        anything besides tensors and plain containers, which is named.
    """
    try:
        data = epath.Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise ValueError(f"no weights file at {path}") from error
    try:
        if data[:2] == b"PK" or (data[:1] == b"\x80" and not _is_safetensors(data)):
            return _weights(torch_file.load(data))
        return weights.tensors(data)
    except ValueError as error:
        raise ValueError(f"{path} was not read: {error}") from error
    except RecursionError as error:
        raise ValueError(
            f"{path} was not read: it contains itself, or goes too deep"
        ) from error


def _is_safetensors(data: bytes) -> bool:
    """Whether it begins with the length of a JSON header, and then the header.

    The length may begin as a pickle does; a pickle does not begin with a length.
    """
    return int.from_bytes(data[:8], "little") < len(data) and data[8:9] == b"{"


def _weights(content: Any) -> StateDict:
    """The weights in what a file holds.

    Raises:
      ValueError: if there are none.
    """
    if isinstance(content, Record):
        return _harvest(content)
    if isinstance(content, Mapping):
        for name in _WITHIN:
            if isinstance(content.get(name), Mapping | Record):
                return _weights(content[name])
        tensors = {k: v for k, v in content.items() if isinstance(v, np.ndarray)}
        found = {k: v for k, v in tensors.items() if isinstance(k, str)}
        if found:
            return found
    raise ValueError(
        f"expected tensors by name, or a network, got {type(content).__name__}"
    )


_MOST_NAMES = 100_000
_LONGEST_NAME = 1_000
"""Of layers and tensors. One layer may have many names, and a small file no end."""


def _harvest(network: Record) -> Pickled:
    """What a pickled network and the layers inside it hold.

    Raises:
      ValueError: if its layers are no layers, contain one another, or are too many.
    """
    found = Pickled()
    found.kind, found.settings = network.kind, {}
    layers, count = [("", network)], 0
    while layers:
        prefix, layer = layers.pop()
        parts = _parts(layer)
        settings = {f"{prefix}{k}": v for k, v in _settings(layer).items()}
        found.settings |= settings
        count += len(parts) + len(settings)
        if count > _MOST_NAMES or len(prefix) > _LONGEST_NAME:
            raise ValueError("its layers contain one another, or are too many")
        for name, part in parts:
            if isinstance(part, np.ndarray):
                found[prefix + name] = part
            elif isinstance(part, Record):
                layers.append((f"{prefix}{name}.", part))
    return found


def _parts(layer: Record) -> list[tuple[str, Any]]:
    """What a layer consists of, by name."""
    parts: list[tuple[str, Any]] = []
    for kind in ("_parameters", "_buffers", "_modules"):
        named = layer.state.get(kind, {})
        if not isinstance(named, dict) or not all(isinstance(k, str) for k in named):
            raise ValueError(f"the {kind} of a {layer.kind} are not given by name")
        parts += named.items()
    return parts


def _settings(layer: Record) -> dict[str, int | float | str]:
    """The attributes of a layer that are a number or a text."""
    plain = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in layer.state.items()
    }
    return {
        name: value
        for name, value in plain.items()
        if isinstance(name, str) and isinstance(value, int | float | str)
    }
