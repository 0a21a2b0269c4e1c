"""Weights of others as one flat dictionary, name -> array, from any of their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    """

    kind = ""


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
        network = Pickled(_harvest(content, ""))
        network.kind = content.kind
        return network
    if isinstance(content, Mapping):
        for name in _WITHIN:
            if isinstance(content.get(name), Mapping | Record):
                return _weights(content[name])
        found = {k: v for k, v in content.items() if isinstance(v, np.ndarray)}
        if found:
            return found
    raise ValueError(
        f"expected tensors by name, or a network, got {type(content).__name__}"
    )


def _harvest(module: Record, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """The parameters and buffers of a pickled layer and of those inside it."""
    for kind in ("_parameters", "_buffers"):
        for name, value in module.state.get(kind, {}).items():
            if isinstance(value, np.ndarray):
                yield prefix + name, value
    for name, child in module.state.get("_modules", {}).items():
        if isinstance(child, Record):
            yield from _harvest(child, f"{prefix}{name}.")
