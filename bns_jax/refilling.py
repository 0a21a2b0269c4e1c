"""Which sample is in which lane: the next one, as soon as one has finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bns_jax import parallel
from bns_jax.lanes import (
    RUNNING,
    Arrived,
    Lanes,
    Waiting,
    advance,
    begin,
    enter,
    read,
    refill,
)
from bns_jax.pytree import on_host
from bns_jax.typing import Sample

Run = Callable[..., Any]
"""run(program, *args) calls a function of `lanes`, for a field and its mesh."""

_FREE = -1
_READINGS = 8


class Queue:
    """Samples that wait for a lane, in the order of their rows."""

    def __init__(
        self,
        run: Run,
        samples: tuple[Sample, tuple[Any, ...]],
        rows: np.ndarray,
        width: int,
        mesh: Mesh | None,
    ):
        """Evaluates nothing yet.

        Args:
          run: calls a program.
          samples: noise and conditioning, each leaf (N, ...).
          rows: which of the N.
          width: how many begin at once, a multiple of the devices.
          mesh: over which these are laid; None for one device.
        """
        self.width, self._run, self._samples, self._mesh = width, run, samples, mesh
        self._ready, self._left = rows[:0], rows
        self.waiting: Waiting | None = None

    def __len__(self) -> int:
        """How many wait."""
        return len(self._ready) + len(self._left)

    def take(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The next ones; fewer than asked for where the rest has not begun.

        Args:
          count: how many at most, from 1.

        Returns:
          Their rows, and their places in `waiting`.
        """
        if not len(self._ready):
            self._begin()
        taken, self._ready = np.split(self._ready, [min(count, len(self._ready))])
        first = self._begun - len(self._ready) - len(taken)
        return taken, first + np.arange(len(taken))

    def _begin(self) -> None:
        """Evaluates the field at the start of the next samples, always as many."""
        self._ready, self._left = np.split(
            self._left, [min(self.width, len(self._left))]
        )
        self._begun = len(self._ready)
        filled = np.pad(self._ready, (0, self.width - self._begun), mode="edge")
        chosen = jax.tree.map(lambda leaf: leaf[filled], self._samples)
        self.waiting = self._run(begin, *parallel.shard(chosen, self._mesh))


def ends(
    run: Run, queue: Queue, save_at: np.ndarray, rtol: float, atol: float
) -> Iterator[tuple[np.ndarray, Arrived]]:
    """Runs as many lanes as a queue is wide, until all of its samples are at their end.

    Args:
      run: calls a program.
      queue: the samples.
      save_at: (K,), times at which the trajectory is kept.
      rtol: relative tolerance of a step.
      atol: absolute tolerance of a step.

    Yields:
      Rows whose solve is over, and how it ended, on the host.
    """
    rows, lanes = np.full(queue.width, _FREE), None
    while True:
        lanes = _fill(run, queue, rows, lanes, save_at)
        if np.all(rows == _FREE):
            return
        lanes, status = run(advance, lanes, save_at, rtol, atol)
        over = np.flatnonzero((rows != _FREE) & (on_host(status) != RUNNING))
        for some in _groups(over, queue.width):
            yield rows[some], _read(run, lanes, some, queue.width)
        rows[over] = _FREE


def _fill(
    run: Run, queue: Queue, rows: np.ndarray, lanes: Lanes | None, save_at: np.ndarray
) -> Lanes | None:
    """Puts samples that wait into free lanes, and notes their rows."""
    while len(queue) and np.any(rows == _FREE):
        free = np.flatnonzero(rows == _FREE)
        taken, places = queue.take(len(free))
        rows[free[: len(taken)]] = taken
        if lanes is None:
            lanes = run(enter, queue.waiting, save_at)
            continue
        source = np.full(len(rows), -1, np.int32)
        source[free[: len(taken)]] = places
        lanes = run(refill, lanes, queue.waiting, source, save_at)
    return lanes


def _groups(lanes: np.ndarray, width: int) -> list[np.ndarray]:
    """So many at a time as are read together."""
    size = -(-width // _READINGS)
    return [lanes[first : first + size] for first in range(0, len(lanes), size)]


def _read(run: Run, lanes: Lanes | None, some: np.ndarray, width: int) -> Arrived:
    """What some lanes hold; always equally many, so that one program reads them all."""
    filled = np.pad(some, (0, -(-width // _READINGS) - len(some)), mode="edge")
    ended = run(read, lanes, filled)
    return jax.tree.map(lambda leaf: on_host(leaf)[: len(some)], ended)
