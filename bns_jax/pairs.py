"""Pairs (x_0, x(1)) of noise and true sample, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bns_jax import kinds, scalars
from bns_jax.checks import check_rows
from bns_jax.pair_checks import check_ends, check_fields, check_same_kind
from bns_jax.typing import Array, Sample


class Pairs(NamedTuple):
    """Noise and what the exact flow makes of it; N samples.

    Attributes:
      x0: noise, each leaf (N, ...).
      x1: the true samples x(1), like x0 in tree, shapes and dtypes.
      args: the conditioning of each sample, a tuple of pytrees of (N, ...).
      nfe: (N,), evaluations that the adaptive solve of each sample took, integers.
      times: (K,), times of the kept points, float64.
      path: the true trajectory at these times, each leaf (K, N, ...).
      weights: (N,), how much each pair counts where it is trained on; all alike if
        None. What matters is their ratio.
    """

    x0: Sample
    x1: Sample
    args: tuple[Any, ...]
    nfe: np.ndarray
    times: np.ndarray
    path: Sample
    weights: np.ndarray | None = None

    @property
    def size(self) -> int:
        """N."""
        return len(self.nfe)

    @property
    def weights_or_ones(self) -> np.ndarray:
        """(N,), the largest 1: as they are, float32 may not hold them."""
        if self.weights is None:
            return np.ones(self.size)
        return np.asarray(self.weights, np.float64) / np.max(self.weights)

    def __repr__(self) -> str:
        """What they are, without their numbers; also of what JAX traces."""
        said = [f"{np.size(self.nfe)} pairs"]
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.x0):
            dtype = getattr(leaf, "dtype", type(leaf).__name__)
            said.append(f"x0{jax.tree_util.keystr(path)} {dtype} {np.shape(leaf)}")
        said.append(f"{np.size(self.times)} times on the path")
        nfe = self.nfe if isinstance(self.nfe, np.ndarray) else np.empty(0)
        if nfe.size and nfe.dtype.kind in "iuf":
            said.append(f"NFE {np.mean(nfe):.1f} in the mean")
        return f"Pairs({', '.join(said)})"

    @classmethod
    def of(
        cls,
        x0: Sample,
        x1: Sample,
        args: tuple[Any, ...] = (),
        times: Array | None = None,
        path: Sample = None,
        nfe: Array | None = None,
        weights: Array | None = None,
    ) -> Pairs:
        """Pairs that somebody else has solved.

        Without the trajectories the greedy start has to solve for them again, and the
        loss of bespoke scale-time solvers cannot be used.

        Args:
          x0: noise, each leaf (N, ...).
          x1: the samples that the exact flow makes of it, like x0.
          args: the conditioning, a tuple of pytrees of (N, ...).
          times: (K,), of the points of the path; uniform from 0 to 1 if left out.
          path: the true trajectory, each leaf (K, N, ...); K = 0 if left out.
          nfe: (N,), evaluations that each took; 0 if left out.
          weights: (N,), how much each counts; all alike if left out.

        Returns:
          The pairs, NumPy arrays.

        Raises:
          TypeError: if a leaf is no array of numbers.
          ValueError: if they do not belong together; see `check`.
        """
        if not isinstance(args, tuple):
            raise ValueError(f"args must be a tuple, got {type(args).__name__}")
        count = check_rows({"x0": x0, "x1": x1, "args": args})
        if path is None:
            path = jax.tree.map(lambda leaf: np.asarray(leaf)[None][:0], x0)
        points = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(path)}
        if times is None:
            times = np.linspace(0.0, 1.0, min(points)[0] if () not in points else 0)
        nfe = np.zeros(count, np.int64) if nfe is None else np.asarray(nfe)
        times = np.asarray(times, np.float64)
        weights = None if weights is None else np.asarray(weights)
        pairs = cls(x0, x1, args, nfe, times, path, weights)
        check(pairs)
        check_ends(pairs)
        return jax.tree.map(np.asarray, pairs)


def check(pairs: Pairs) -> None:
    """Checks that pairs belong together.

    Args:
      pairs: what is said to be pairs.

    Raises:
      TypeError: if a leaf is no array of numbers.
      ValueError: if x0 and x1 differ in tree, shapes or dtypes, a leaf of x0, x1, args
        or nfe has another count than the rest, there are none, a value is not finite,
        the path is not of these samples, its times are not sorted in [0, 1], or the
        weights are not positive and finite.
    """
    _check_kind(pairs)
    check_fields(pairs)


def _check_kind(pairs: Any) -> None:
    if not isinstance(pairs, Pairs):
        raise TypeError(
            "expected Pairs, as ground_truth.pairs and Pairs.of give, got "
            f"{type(pairs).__name__}"
        )


def concatenate(parts: Sequence[Pairs]) -> Pairs:
    """Joins pairs of the same kind along the sample axis.

    Args:
      parts: pairs of one field, each N_i of them.

    Returns:
      All of them, NumPy arrays with N = sum of N_i; weights where a part has some, 1
      for those without.

    Raises:
      ValueError: if there are none, or they differ in tree, in the shapes or dtypes of
        a sample, or in the times of their paths.
    """
    kinds.check("a list of sets of pairs", parts, Sequence)
    for part in parts:
        _check_kind(part)
    if not parts:
        raise ValueError("expected at least one set of pairs, got none")
    for part in parts[1:]:
        check_same_kind(parts[0], part)

    def join(axis: int, *leaves: np.ndarray) -> np.ndarray:
        return np.concatenate(leaves, axis)

    rows = [(part.x0, part.x1, part.args, part.nfe) for part in parts]
    x0, x1, args, nfe = jax.tree.map(lambda *leaves: join(0, *leaves), *rows)
    paths = [part.path for part in parts]
    path = jax.tree.map(lambda *leaves: join(1, *leaves), *paths)
    weights = None
    if any(part.weights is not None for part in parts):
        weights = np.concatenate([_weights(part) for part in parts])
    return Pairs(x0, x1, args, nfe, parts[0].times, path, weights)


def _weights(part: Pairs) -> np.ndarray:
    return np.ones(part.size) if part.weights is None else np.asarray(part.weights)


def first(pairs: Pairs, count: int) -> Pairs:
    """The first so many pairs; all of them if there are less.

    Args:
      pairs: all of them.
      count: how many, from 1.

    Returns:
      Views of the first ones, where the arrays are those of NumPy.

    Raises:
      ValueError: if count is no whole number of at least 1.
    """
    _check_kind(pairs)
    return take(pairs, slice(scalars.count("count", count)))


def split(pairs: Pairs, *counts: int) -> list[Pairs]:
    """Sets of pairs that have no sample in common, such as to train and to validate on.

    Args:
      pairs: all of them.
      *counts: of each set; what is left over belongs to none.

    Returns:
      One set for each count, in order; views, where the arrays are those of NumPy.

    Raises:
      ValueError: if a count is no whole number of at least 1, or there are fewer pairs.
    """
    _check_kind(pairs)
    counts = tuple(scalars.count("counts", count) for count in counts)
    if sum(counts) > pairs.size:
        raise ValueError(f"expected at least {sum(counts)} pairs, got {pairs.size}")
    ends = np.cumsum(counts)
    return [
        take(pairs, slice(int(end) - count, int(end)))
        for end, count in zip(ends, counts, strict=True)
    ]


def take(pairs: Pairs, rows: slice | np.ndarray) -> Pairs:
    """Some of the pairs.

    Args:
      pairs: all of them.
      rows: which ones, in their order: a slice, or (n,) whole numbers.

    Returns:
      These; of a slice views, where the arrays are those of NumPy.
    """
    x0, x1, args, nfe = jax.tree.map(lambda leaf: leaf[rows], pairs[:4])
    path = jax.tree.map(lambda leaf: leaf[:, rows], pairs.path)
    weights = None if pairs.weights is None else pairs.weights[rows]
    return Pairs(x0, x1, args, nfe, pairs.times, path, weights)
