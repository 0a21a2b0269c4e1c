"""A start fitted row by row: each iterate by least squares to the true trajectory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bns_jax import grids, ground_truth, pairs, parallel, probing, scalars
from bns_jax.checks import check_velocity
from bns_jax.distill.evaluate import PER_DEVICE
from bns_jax.distill.path_grid import path_grids
from bns_jax.families.spline import check_covers, interpolate
from bns_jax.ns import NSParams
from bns_jax.pairs import Pairs
from bns_jax.problem import Problem
from bns_jax.pytree import on_host
from bns_jax.typing import Sample, VelocityField
from bns_jax.velocity import time_like

_LEAST_POINTS = 4
"""Of a trajectory, for a cubic spline."""

_ELSEWHERE = 0.5
"""Of the samples' own spread: pairs that are shuffled are 1.4 of it apart."""


def greedy(
    vf: Problem | VelocityField,
    train: Pairs,
    nfe: int,
    candidates: Sequence[grids.GridLike] | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
) -> NSParams:
    """Fits a solver to the true trajectories, one row after another.

    Row i is what brings x_{i+1} = a_i x_0 + sum_j b_ij u_j closest to the true
    x(t_{i+1}), the velocities being those that the solver itself has met. It costs nfe
    field calls per pair and grid, and no gradient. The last row is fitted to x(1) with
    each sample weighted by the inverse of its error, as eq. 13 weighs them.

    Args:
      vf: the field, or a `Problem`.
      train: pairs; with fewer than 4 points of the trajectory it is solved for anew.
      nfe: evaluations.
      candidates: grids, each of nfe + 1 times of which the last is not evaluated;
        `path_grids(train)` if left out. The one that comes closest on `train` is kept.
      chunk: samples that the field is called with at a time; 64 per device if left out.
      mesh: devices to lay each chunk over, along the mesh's first axis; those of the
        problem if left out.

    Returns:
      The solver, NumPy float64.

    Raises:
      ValueError: if there is no candidate, or one is of another length, unsorted or
        outside [0, 1], or the path has fewer than 4 points or does not lead from 0 to
        1, or chunk is no positive number, or the field refuses the conditioning (see
        `conditioning.check`), or a velocity on the way is not finite.
    """
    problem, nfe = Problem.of(vf), scalars.nfe(nfe)
    mesh = mesh or problem.mesh
    chunk = PER_DEVICE * parallel.batch_devices(mesh) if chunk is None else chunk
    chunk = scalars.count("chunk", chunk)
    pairs.check(train)
    problem.check_args(train.args)
    train = with_path(problem.field, train, mesh)
    check_covers(train.times)
    if candidates is None:
        candidates = path_grids(train)
    if not candidates:
        raise ValueError("expected at least one grid to try, got none")
    laid = [grids.times(candidate, nfe) for candidate in candidates]
    field = parallel.place(problem.pytree, mesh)
    probing.look(field, train.x0, train.args, mesh)
    velocities = partial(_velocities, field, train.args, chunk, mesh)
    fitted = [_fit_rows(velocities, train, times) for times in laid]
    return min(fitted, key=lambda result: result[1])[0]


def with_path(vf: VelocityField, train: Pairs, mesh: Mesh | None) -> Pairs:
    """Pairs whose trajectory is there: with too few points it is solved for.

    Args:
      vf: the field.
      train: pairs of any number of points.
      mesh: devices to solve on.

    Returns:
      The pairs, with the points of the field's own trajectories where they had too few.

    Raises:
      ValueError: if the field leads elsewhere than to x1 of the pairs.
    """
    if len(train.times) >= _LEAST_POINTS:
        return train
    x0 = jax.tree.map(_wide, train.x0)
    solved = ground_truth.pairs(Problem(vf, mesh=mesh), x0, *train.args)
    _check_leads_there(solved.x1, train.x1)
    path = jax.tree.map(lambda x, like: x.astype(like.dtype), solved.path, train.x0)
    return train._replace(times=solved.times, path=path)


def _wide(x: np.ndarray) -> np.ndarray:
    """In single precision at least: the reference solve takes no less."""
    return np.asarray(x, np.float32) if np.asarray(x).dtype.itemsize < 4 else x


def _check_leads_there(solved: Sample, given: Sample) -> None:
    """Checks that the field leads to the samples of somebody else's pairs."""
    ends, expected = _rows(solved), _rows(given)
    spread = np.sqrt(np.mean(np.var(expected, axis=0)))
    apart = np.sqrt(np.mean((ends - expected) ** 2))
    if apart > _ELSEWHERE * spread > 0:
        raise ValueError(
            "expected a field that leads from x0 to x1 of the pairs, got ends that are "
            f"{apart:.3g} apart from x1 (root mean square), whose standard deviation "
            f"is {spread:.3g}: are x0 and x1 swapped or shuffled, or is time reversed?"
        )


def _fit_rows(
    velocities: Callable[[float, Sample], np.ndarray], train: Pairs, times: np.ndarray
) -> tuple[NSParams, float]:
    """The solver on these nfe + 1 times, and the mean log error that it ends with."""
    n = len(times) - 1
    targets = [_rows(x) for x in _true_points(train, times[1:-1])] + [_rows(train.x1)]
    a, b = np.zeros(n), np.zeros((n, n))
    x, columns = train.x0, [_rows(train.x0)]
    for i, target in enumerate(targets):
        columns.append(velocities(times[i], x))
        _check_finite(columns[-1], times[i])
        row = _fit_row(columns, target, rounds=3 if i == n - 1 else 1)
        a[i], b[i, : i + 1] = row[0], row[1:]
        x = _unrows(_combine(row, columns), train.x0)
    error = _error(_combine(row, columns), targets[-1])
    return NSParams(times[:-1], a, b), float(np.mean(np.log(error)))


def _check_finite(velocities: np.ndarray, t: float) -> None:
    finite = np.isfinite(velocities).all(axis=1)
    if not finite.all():
        sample = int(np.argmin(finite))
        raise ValueError(
            f"the velocity of pair {sample} is not finite at t = {t:.6g}, where the "
            "greedy start asked for it"
        )


def _true_points(train: Pairs, times: np.ndarray) -> list[Sample]:
    """The true samples at each of some times."""
    if not times.size:
        return []
    path = interpolate(train.times, train.path, jnp.asarray(times))
    return [_select(path, i) for i in range(len(times))]


def _select(tree: Any, index: int | np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), tree)


def _velocities(
    vf: VelocityField,
    args: tuple[Any, ...],
    chunk: int,
    mesh: Mesh | None,
    t: float,
    x: Sample,
) -> np.ndarray:
    """The velocities of all samples, (N, d)."""
    count, parts = len(jax.tree.leaves(x)[0]), []
    for rows, kept in parallel.batches(count, chunk, mesh):
        some = parallel.shard(_select((x, args), rows), mesh)
        parts.append(_rows(_call(vf, np.asarray(t), *some))[:kept])
    return np.concatenate(parts)


@jax.jit
def _call(vf: VelocityField, t: jax.Array, x: Sample, args: tuple[Any, ...]) -> Sample:
    time = time_like(t, x)
    u = vf(time, x, *args)
    check_velocity(u, x, time)
    return u


def _fit_row(columns: list[np.ndarray], target: np.ndarray, rounds: int) -> np.ndarray:
    """The c that brings sum_k c_k columns_k closest to the target.

    By least squares; each further round weighs the samples by the inverse of their
    squared error, and so minimises the mean of its logarithm.
    """
    weights = np.ones(len(target))
    for _ in range(rounds):
        row = _least_squares(columns, target, weights)
        weights = 1.0 / _error(_combine(row, columns), target)
    return row


def _error(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The mean squared error of each sample, never 0."""
    return np.maximum(np.mean((x - target) ** 2, axis=1), np.finfo(np.float32).tiny)


def _combine(row: np.ndarray, columns: list[np.ndarray]) -> np.ndarray:
    return sum(c * column for c, column in zip(row, columns, strict=True))


def _least_squares(
    columns: list[np.ndarray], target: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """The c of smallest sum_s w_s ||sum_k c_k columns_ks - target_s||^2, in float64."""
    root = np.sqrt(weights)[:, None]
    A = np.stack([(root * column).ravel() for column in columns], axis=1)
    scale = 1.0 / np.linalg.norm(A, axis=0).clip(1e-300)
    c, *_ = np.linalg.lstsq(A * scale, (root * target).ravel(), rcond=1e-12)
    return c * scale


def _rows(x: Sample) -> np.ndarray:
    """(N, d), float64."""
    leaves = [on_host(leaf).astype(np.float64) for leaf in jax.tree.leaves(x)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _unrows(rows: np.ndarray, like: Sample) -> Sample:
    """The pytree whose `_rows` is `rows`, with the shapes and dtypes of `like`."""
    leaves, tree = jax.tree.flatten(like)
    ends = np.cumsum([leaf[0].size for leaf in leaves])[:-1]
    parts = zip(np.split(rows, ends, axis=1), leaves, strict=True)
    shaped = [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in parts]
    return jax.tree.unflatten(tree, shaped)
