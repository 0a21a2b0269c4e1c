"""Pairs that come in any order, put together to shards of consecutive samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from bns_jax.pairs import Pairs, concatenate, take


class Shards:
    """The samples of one set, `size` at a time; the last shard may have less."""

    def __init__(self, count: int, size: int):
        """Has none yet.

        Args:
          count: samples of the set.
          size: of a shard.
        """
        self.count, self._size = count, size
        self._parts: dict[int, list[tuple[np.ndarray, Pairs]]] = defaultdict(list)

    def __len__(self) -> int:
        """How many shards there are."""
        return -(-self.count // self._size)

    def rows(self, index: int) -> np.ndarray:
        """The samples of one shard.

        Args:
          index: of the shard, from 0.

        Returns:
          Their rows.
        """
        first = index * self._size
        return np.arange(first, min(first + self._size, self.count))

    def add(self, rows: np.ndarray, pairs: Pairs) -> Iterator[tuple[int, Pairs]]:
        """Takes some more samples.

        Args:
          rows: which ones, each once.
          pairs: of these.

        Yields:
          The index and the pairs of each shard that is complete now.
        """
        for index in np.unique(rows // self._size):
            chosen = np.flatnonzero(rows // self._size == index)
            parts = self._parts[int(index)]
            parts.append((rows[chosen], take(pairs, chosen)))
            there = np.concatenate([rows for rows, _ in parts])
            if len(there) == len(self.rows(index)):
                del self._parts[int(index)]
                whole = concatenate([pairs for _, pairs in parts])
                yield int(index), take(whole, np.argsort(there))
