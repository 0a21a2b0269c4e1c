"""Pairs (x_0, x(1)) of noise and true sample, in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from bns_jax.typing import Sample


class Pairs(NamedTuple):
    """Noise and what the exact flow makes of it; N samples.

    Attributes:
      x0: noise, each leaf (N, ...).
      x1: the true samples x(1), like x0 in tree, shapes and dtypes.
      args: the conditioning of each sample, a tuple of pytrees of (N, ...).
      nfe: (N,), evaluations that the adaptive solve of each sample took, integers.
      times: (K,), times of the kept points, float64.
      path: the true trajectory at these times, each leaf (K, N, ...).
    """

    x0: Sample
    x1: Sample
    args: tuple[Any, ...]
    nfe: np.ndarray
    times: np.ndarray
    path: Sample

    @property
    def size(self) -> int:
        """N."""
        return len(self.nfe)


def check(pairs: Pairs) -> None:
    """Checks that pairs belong together.

    Raises:
      ValueError: if x0 and x1 differ in tree or shapes, a leaf of x0, x1, args or nfe
        has another count than the rest, there are none, or a value is not finite.
    """
    trees = [jax.tree.structure(tree) for tree in (pairs.x0, pairs.x1)]
    if not trees[0] == trees[1]:  # type: ignore[operator]
        raise ValueError(f"x0 and x1 must have one tree, got {trees[0]} and {trees[1]}")
    counts = {
        f"{name}{jax.tree_util.keystr(path)}": np.shape(leaf)[:1]
        for name, tree in pairs._asdict().items()
        if name not in ("times", "path")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    if len(set(counts.values())) != 1:
        raise ValueError(
            "pairs must be of equal length, got leading axes "
            + ", ".join(f"{name} {shape}" for name, shape in counts.items())
        )
    if pairs.size == 0:
        raise ValueError("expected at least one pair, got none")
    for x0, x1 in zip(
        jax.tree.leaves(pairs.x0), jax.tree.leaves(pairs.x1), strict=True
    ):
        if np.shape(x0) != np.shape(x1):
            raise ValueError(
                f"x0 and x1 must have equal shapes, got {np.shape(x0)} and "
                f"{np.shape(x1)}"
            )
        for name, leaf in (("x0", x0), ("x1", x1)):
            finite = np.isfinite(np.asarray(leaf, np.float64))
            if not np.all(finite):
                sample = int(np.argwhere(~finite)[0][0])
                raise ValueError(f"{name} must be finite, sample {sample} is not")


def concatenate(parts: list[Pairs]) -> Pairs:
    """Joins pairs of the same kind along the sample axis."""

    def join(axis: int, *leaves: np.ndarray) -> np.ndarray:
        return np.concatenate(leaves, axis)

    rows = [(part.x0, part.x1, part.args, part.nfe) for part in parts]
    x0, x1, args, nfe = jax.tree.map(lambda *leaves: join(0, *leaves), *rows)
    paths = [part.path for part in parts]
    path = jax.tree.map(lambda *leaves: join(1, *leaves), *paths)
    return Pairs(x0, x1, args, nfe, parts[0].times, path)


def first(pairs: Pairs, count: int) -> Pairs:
    """The first so many pairs."""
    x0, x1, args, nfe = jax.tree.map(lambda leaf: leaf[:count], pairs[:4])
    path = jax.tree.map(lambda leaf: leaf[:, :count], pairs.path)
    return Pairs(x0, x1, args, nfe, pairs.times, path)
