"""What a search for a solver gives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from bns_jax.distill.state import HistoryRow
from bns_jax.ns import NSParams

_LARGE_GAP = 0.1
"""Of the gain: what is better by more on training pairs has too few of them."""


class Distilled(NamedTuple):
    """A fitted solver.

    Attributes:
      params: of the best validation iteration, NumPy arrays ready for `sample`.
      history: one row per validation, the start included.
      forwards: calls of the field on one sample that training took: forward 1,
        backward 2, the trials of a line search included. Recomputation, validation,
        the start and the ground truth are not counted.
      iteration: the best one.
      val_metric: what it reached on the validation pairs.
      identity: what it is of, as JSON values; see `identify`.
      train_metric: what it reached on as many training pairs; nan where nobody looked.
    """

    params: NSParams
    history: tuple[HistoryRow, ...]
    forwards: int
    iteration: int
    val_metric: float
    identity: Mapping[str, Any] = MappingProxyType({})
    train_metric: float = math.nan

    @property
    def overfit(self) -> float:
        """How much better it is on the training pairs."""
        return self.train_metric - self.val_metric

    @property
    def advice(self) -> str:
        """What would help, in words; "" if nothing stands out."""
        gain = self.val_metric - self.history[0].val_metric
        if self.iteration == 0:
            return (
                "no validation was better than the start's; more patience "
                "(optimizer.replace(patience=8)) or more training pairs may help"
            )
        if self.overfit > _LARGE_GAP * gain:
            return "it fits the training pairs better; more of them would help"
        return ""

    def __str__(self) -> str:
        """What was found, and at what cost."""
        start, last = self.history[0].val_metric, self.history[-1]
        lines = [
            f"{len(self.params.a)} evaluations: validation {self.val_metric:.2f}, "
            f"{self.val_metric - start:+.2f} over its start of {start:.2f}",
            f"step {self.iteration} of {last.iteration}, {self.overfit:+.2f} on "
            f"training pairs, {self.forwards:,} field calls, {last.seconds:.0f} s",
        ]
        return "\n".join([*lines, *([self.advice] if self.advice else [])])
