"""What a run keeps of itself: its history, and checkpoints that it continues from."""

from __future__ import annotations

import math
import time
from typing import Any

import jax
import numpy as np

from bns_jax.checkpoint import Checkpointer
from bns_jax.distill.finite import RecentLosses
from bns_jax.distill.state import HistoryRow, TrainerState
from bns_jax.identity import differences


class RunRecord:
    """The history of a run, saved with its state.

    Attributes:
      identity: what tells this run from others, as JSON values.
      history: one row per validation.
      losses: of the steps since the last one.
      recent: those of the last steps, whether a validation came between or not.
    """

    def __init__(self, saver: Checkpointer, identity: dict[str, Any], iterations: int):
        """Starts an empty history.

        Args:
          saver: of the checkpoints.
          identity: what tells this run from others, as JSON values.
          iterations: of the run.
        """
        self._saver, self.identity = saver, identity
        self._start = time.monotonic()
        self.history: list[HistoryRow] = []
        self.losses: list[Any] = []
        self.recent = RecentLosses(iterations)

    def resume(self, state: TrainerState) -> TrainerState:
        """The state that was saved last; the given one if none was.

        Args:
          state: at the start of the run.

        Returns:
          The state to go on from.

        Raises:
          ValueError: if the checkpoint is of another run; names what differs.
        """
        metadata = self._saver.metadata()
        there = self.identity if metadata is None else metadata.get("identity", {})
        differing = differences(there, self.identity)
        if differing:
            raise ValueError(
                f"the checkpoint in {self._saver.directory} is of another run; "
                + "; ".join(differing)
            )
        found = self._saver.restore(state)
        if found is None:
            return state
        self.history = [HistoryRow(*row) for row in found.metadata["history"]]
        self.losses = found.metadata["losses"]
        self.recent.add(*found.metadata["recent"])
        self._start = time.monotonic() - self.history[-1].seconds
        return found.state

    def add(self, state: TrainerState, value: float, forwards: int) -> HistoryRow:
        """Adds a validation to the history.

        Args:
          state: that was validated.
          value: of the metric, the mean over the pairs.
          forwards: calls of the field on one sample, spent so far.

        Returns:
          The new row of the history.
        """
        losses = np.asarray(jax.device_get(self.losses), np.float64)
        row = HistoryRow(
            int(state.step),
            forwards,
            float(np.mean(losses)) if self.losses else math.nan,
            value,
            time.monotonic() - self._start,
        )
        self.history.append(row)
        self.losses.clear()
        return row

    def save(self, state: TrainerState) -> None:
        """Saves the state, and what a run needs besides to continue from it.

        Args:
          state: to continue from.

        Raises:
          OSError: if it cannot be written, or the one before was not.
        """
        metadata = {
            "identity": self.identity,
            "history": [list(row) for row in self.history],
            "losses": [float(loss) for loss in self.losses],
            "recent": self.recent.values(),
        }
        self._saver.save(int(state.step), state, metadata)
