"""When a run has no more to gain that is worth its cost."""

from __future__ import annotations

from collections.abc import Sequence

from bns_jax.distill.state import HistoryRow

_WORTH = 0.05


def is_stale(history: Sequence[HistoryRow], patience: int | None) -> bool:
    """Whether none of the last `patience` validations counts.

    One counts that lies above the last that did by 5 % of what the run has gained since
    its start, whatever the unit of the metric: a run that has gained 10 dB does not go
    on for hundredths of them, and many small gains add up to one that counts.

    Args:
      history: of the run, its start included.
      patience: None for endless.

    Returns:
      True if the run may end.
    """
    if patience is None:
        return False
    start = counted = history[0].val_metric
    last = 0
    for index, row in enumerate(history):
        gain = row.val_metric - counted
        if gain > 0 and gain >= _WORTH * (row.val_metric - start):
            counted, last = row.val_metric, index
    return len(history) - 1 - last >= patience
