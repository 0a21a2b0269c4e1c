"""What the fields of `Pairs` must have in common."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bns_jax.checks import check_finite, check_rows

_APART = 0.01
"""How far the ends of a path may be from the samples, relative to their size."""


def check_fields(pairs: Any) -> None:
    """Checks that the fields of pairs belong together.

    Args:
      pairs: of which only the fields are looked at.

    Raises:
      TypeError: if a leaf is no array of numbers.
      ValueError: as `pairs.check`.
    """
    named = pairs._asdict()
    check_rows({name: named[name] for name in ("x0", "x1", "args", "nfe")})
    _check_alike("x1", pairs.x1, pairs.x0, 0)
    for name in ("x0", "x1"):
        check_finite(name, named[name])
    times = np.asarray(pairs.times)
    if times.ndim != 1 or not np.all((times >= 0) & (times <= 1)):
        raise ValueError(f"times must be a vector in [0, 1], got {pairs.times}")
    if np.any(np.diff(times) < 0):
        raise ValueError(f"times must be sorted, got {pairs.times}")
    _check_alike("path", pairs.path, pairs.x0, len(times))
    check_finite("path", pairs.path)
    nfe = np.asarray(pairs.nfe)
    if nfe.ndim != 1 or not np.issubdtype(nfe.dtype, np.integer):
        raise ValueError(
            f"nfe must be whole numbers of shape (N,), got {nfe.dtype} of {nfe.shape}"
        )
    if np.any(nfe < 0):
        raise ValueError(f"nfe must be at least 0, got {np.min(nfe)}")
    _check_weights(pairs.weights, pairs.size)


def check_ends(pairs: Any) -> None:
    """Checks that paths lead from x0 to x1, where they have these points.

    Args:
      pairs: whose fields are checked.

    Raises:
      ValueError: if an end is apart from its samples by more than 1 % of their size.
    """
    for name, x, k, end in (("x0", pairs.x0, 0, 0.0), ("x1", pairs.x1, -1, 1.0)):
        if not len(pairs.times) or pairs.times[k] != end:
            continue
        for leaf, points in zip(
            jax.tree.leaves(x), jax.tree.leaves(pairs.path), strict=True
        ):
            expected = np.asarray(leaf).astype(np.float64)
            difference = np.asarray(points[k]).astype(np.float64) - expected
            size = np.sqrt(np.mean(expected**2))
            if np.sqrt(np.mean(difference**2)) > _APART * size:
                raise ValueError(
                    f"the path must be at {name} at time {end:g}, and is apart from it "
                    f"by {np.sqrt(np.mean(difference**2)):.3g} (root mean square)"
                )


def check_same_kind(one: Any, other: Any) -> None:
    """Checks that two sets of pairs can be joined.

    Args:
      one: a set.
      other: another.

    Raises:
      ValueError: if they differ in the times of their paths, or in the tree, shapes or
        dtypes of a sample.
    """
    if not np.array_equal(one.times, other.times):
        raise ValueError(
            f"pairs must have the same times, got {one.times} and {other.times}"
        )
    first, second = (
        jax.tree.map(
            lambda leaf: f"{_dtype(leaf)}{list(np.shape(leaf)[1:])}",
            (pairs.x0, pairs.x1, pairs.args),
        )
        for pairs in (one, other)
    )
    if first != second:
        raise ValueError(
            f"pairs must be of one kind, got samples of {first} and {second}"
        )


def _check_weights(weights: Any, count: int) -> None:
    if weights is None:
        return
    values = np.asarray(weights)
    if values.shape != (count,) or values.dtype.kind not in "fiu":
        raise ValueError(
            f"weights must be one number per pair, expected shape ({count},), got "
            f"{values.dtype} of shape {values.shape}"
        )
    if not (np.all(np.isfinite(values)) and np.all(values > 0)):
        raise ValueError("weights must be positive and finite")


def _check_alike(name: str, tree: Any, x0: Any, points: int) -> None:
    """Checks the tree, shapes and dtypes of x1, or of a path of so many points."""
    there, expected = jax.tree.structure(tree), jax.tree.structure(x0)
    if not there == expected:  # type: ignore[operator]
        raise ValueError(
            f"x0 and {name} must have one tree, got {expected} and {there}"
        )
    axis = () if name == "x1" else (points,)
    for leaf, like in zip(jax.tree.leaves(tree), jax.tree.leaves(x0), strict=True):
        shape = (*axis, *np.shape(like))
        if np.shape(leaf) != shape:
            raise ValueError(f"expected {name} of shape {shape}, got {np.shape(leaf)}")
        dtypes = _dtype(like), _dtype(leaf)
        if dtypes[0] != dtypes[1]:
            raise ValueError(
                f"x0 and {name} must have one dtype, got {dtypes[0]} and {dtypes[1]}"
            )


def _dtype(leaf: Any) -> Any:
    """That of an array, whether JAX would hold it so or not."""
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
