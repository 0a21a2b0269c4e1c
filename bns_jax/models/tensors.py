"""Tensors of a file by name, and what the file says besides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

StateDict = dict[str, np.ndarray]
"""The layout's own name of each tensor -> its values."""

Settings = dict[str, int | float | str]
"""Name -> a number or a text."""


class Tensors(StateDict):
    """The tensors of a file by name.

    Attributes:
      kinds: the classes of a network that was pickled whole and of its layers, by the
        prefix of their names: "" the network's own.
      settings: the numbers and texts that such a network and its layers hold besides,
        by the same names: "sigma_data", "blocks.0.attn.num_heads", ...
      arguments: those of the program that trained it, where it wrote them beside.
      unread: name -> what it is, of tensors that are no plain arrays.
    """

    def __init__(self, items: Mapping[str, np.ndarray] | None = None):
        """Holds the given ones, and nothing besides.

        Args:
          items: name -> values; none if left out.
        """
        super().__init__(items or {})
        self.kinds: dict[str, str] = {}
        self.settings: Settings = {}
        self.arguments: Settings = {}
        self.unread: dict[str, str] = {}

    @property
    def kind(self) -> str:
        """The class of a network that was pickled whole; "" for tensors alone."""
        return self.kinds.get("", "")

    def __bool__(self) -> bool:
        """Whether there are any, read or not."""
        return bool(len(self) or self.unread)

    def unwrapped(self) -> Tensors:
        """The same without the prefixes that wrappers put before all names.

        Returns:
          The tensors, and what the file says of them, by shorter names.
        """
        return self._cut(_WRAPPERS)[-1]

    def fitting(self, expected: Collection[str]) -> Tensors:
        """The same without prefixes, as far as that lets more names be expected ones.

        Args:
          expected: the names that a network has.

        Returns:
          Those of which most names are expected.
        """
        wanted = set(expected)
        return max(
            self._cut((*_WRAPPERS, "model.")),
            key=lambda found: len(wanted & {*found, *found.unread}),
        )

    def _cut(self, prefixes: tuple[str, ...]) -> list[Tensors]:
        """These, and after each cut of a prefix that all names have."""
        found = [self]
        while len(found) <= _MOST_WRAPPERS:
            names = {*found[-1], *found[-1].unread} - {_COUNT}
            common = [
                prefix
                for prefix in prefixes
                if names and all(name.startswith(prefix) for name in names)
            ]
            if not common:
                break
            found.append(found[-1]._without(common[0]))
        return found

    def _without(self, prefix: str) -> Tensors:
        def cut(items: Mapping[str, Any]) -> dict[str, Any]:
            return {k.removeprefix(prefix): v for k, v in items.items() if k != _COUNT}

        found = Tensors(cut(self))
        found.kinds = cut({k: v for k, v in self.kinds.items() if k.startswith(prefix)})
        found.arguments = self.arguments
        found.settings, found.unread = cut(self.settings), cut(self.unread)
        return found


_WRAPPERS = ("module.", "_orig_mod.")
"""Of DataParallel and AveragedModel, and of compiled networks."""
_MOST_WRAPPERS = 8
_COUNT = "n_averaged"
"""What AveragedModel keeps besides."""
