"""A set of weights in somebody else's file, found but not read yet."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from bns_jax.models.tensors import Settings, Tensors
from bns_jax.models.torch_tensors import is_tensor
from bns_jax.unpickle import as_array


@dataclasses.dataclass
class WeightSet:
    """Tensors by name, not read yet.

    Attributes:
      values: name -> an array, or the record of one.
      kinds: as of `Tensors`.
      settings: as of `Tensors`.
      averaged: whether it was found under the name of an average.
      fault: why it cannot be read; "" if it can.
    """

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)
    settings: Settings = dataclasses.field(default_factory=dict)
    averaged: bool = False
    fault: str = ""

    def __bool__(self) -> bool:
        """Whether there is something to read, or a reason that it cannot be."""
        return bool(self.values or self.fault)

    @property
    def is_large(self) -> bool:
        """Whether it is more than one tensor, which may be the state of anything."""
        return len(self.values) > 1 or bool(self.fault)

    def read(self) -> Tensors:
        """Its tensors.

        Returns:
          The arrays by name, and what could not be read.

        Raises:
          ValueError: if it has a fault, or a tensor is damaged.
        """
        if self.fault:
            raise ValueError(self.fault)
        found = Tensors()
        found.kinds, found.settings = self.kinds, self.settings
        for name, value in self.values.items():
            array = as_array(value)
            if array is not None:
                found[name] = array
            else:
                found.unread[name] = value.kind
        return found

    def by_bare_name(self) -> dict[str, str]:
        """Name without wrappers and dots, as some averages have it -> its name.

        Returns:
          A name for each tensor.
        """
        return {_WRAPPED.sub("", name).replace(".", ""): name for name in self.values}

    def average_of(self, raw: WeightSet) -> WeightSet | None:
        """The same by the names of raw weights; None if they are of something else.

        Args:
          raw: the weights that were averaged.

        Returns:
          A set of the names in `raw`.
        """
        own, others = self.by_bare_name(), raw.by_bare_name()
        common = {name: own[bare] for bare, name in others.items() if bare in own}
        if 2 * len(common) < max(len(own), 1):
            return None
        if all(name == other for name, other in common.items()):
            return self
        values = {name: self.values[other] for name, other in common.items()}
        return dataclasses.replace(self, values=values)


_WRAPPED = re.compile(r"^((module|_orig_mod|model)\.)+")


def holds_tensor(value: Any) -> bool:
    """Whether a value is an array, or the record of one.

    Args:
      value: anything that a file held.

    Returns:
      True if it is.
    """
    return isinstance(value, np.ndarray) or is_tensor(value)
