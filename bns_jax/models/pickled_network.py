"""The weights and settings of a network that was pickled as an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bns_jax.models.tensors import Settings
from bns_jax.models.weight_set import WeightSet, holds_tensor
from bns_jax.unpickle import Record

_MOST_NAMES = 100_000
_LONGEST_NAME = 1_000
"""Of layers and tensors. One layer may have many names, and a small file no end."""

_PARTS = ("_parameters", "_buffers", "_modules")
"""Where a layer of torch has what it consists of."""


def of_network(network: Record) -> WeightSet | None:
    """What a pickled network and the layers inside it hold; None if it is none.

    It has a fault if its layers are no layers, contain one another, or are too many.

    Args:
      network: what a pickle holds.

    Returns:
      Its tensors, settings and kinds of layers.
    """
    if not any(kind in network.attributes for kind in _PARTS):
        return None
    try:
        return _harvest(network)
    except ValueError as error:
        return WeightSet(fault=str(error))


def _harvest(network: Record) -> WeightSet:
    found = WeightSet()
    layers, count = [("", network)], 0
    while layers:
        prefix, layer = layers.pop()
        parts, settings = _parts(layer), plain_entries(layer.attributes)
        count += len(parts) + len(settings)
        longest = len(prefix) + max(map(len, (*dict(parts), *settings)), default=0)
        if count > _MOST_NAMES or longest > _LONGEST_NAME:
            raise ValueError("its layers contain one another, or are too many")
        found.kinds[prefix] = layer.kind
        found.settings |= {f"{prefix}{name}": v for name, v in settings.items()}
        for name, part in parts:
            if holds_tensor(part):
                found.values[prefix + name] = part
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


def plain_entries(entries: Mapping[Any, Any]) -> Settings:
    """The entries that are a number or a text.

    Args:
      entries: values by name, or by anything else.

    Returns:
      Those with a name, as Python's numbers and texts.
    """
    plain = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in entries.items()
    }
    return {
        name: value
        for name, value in plain.items()
        if isinstance(name, str) and isinstance(value, int | float | str)
    }
