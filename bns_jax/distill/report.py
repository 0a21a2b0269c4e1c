"""What a run tells its owner, and what it asks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

from bns_jax.distill.state import HistoryRow
from bns_jax.kinds import check_function
from bns_jax.ns import NSParams
from bns_jax.progress import shown
from bns_jax.typing import Progress


def _nothing(row: HistoryRow, params: NSParams) -> None:
    del row, params


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that a run tells and asks, in one place.

    Attributes:
      progress: progress(done, total, note), called at each validation; a line on a
        terminal if left out.
      validated: called at each validation with its row and the solver it measured;
        again with the last row if a run that died then continues.
      stop: asked before each step; once it says yes, the state is saved and the run
        ends.
    """

    progress: Progress | None = None
    validated: Callable[[HistoryRow, NSParams], None] = _nothing
    stop: Callable[[], bool] = _never

    def __post_init__(self) -> None:
        if self.progress is not None:
            check_function("report", self.progress, "report(done, total, note)")
        check_function("validated", self.validated, "validated(row, params)")
        check_function("stop", self.stop, "stop()")

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Reports that `done` of `total` steps are finished.

        Args:
          done: steps so far.
          total: steps of the run.
          note: what else to say.
        """
        if self.progress is not None:
            self.progress(done, total, note)


@contextlib.contextmanager
def reporting(given: Report | Progress | None) -> Iterator[Report]:
    """The report of a run; a progress callable is all of one.

    Args:
      given: a report, a progress callable, or None.

    Yields:
      The report, with a line on a terminal where it has no progress of its own.
    """
    report = given if isinstance(given, Report) else Report(given)
    with shown(report.progress, "distill", "steps") as progress:
        yield dataclasses.replace(report, progress=progress)
