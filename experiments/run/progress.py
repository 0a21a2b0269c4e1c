"""ProgressBar of long work: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import pathlib
import sys
import time
from logging import LogRecord

import jax
import tqdm
from absl import flags, logging

from bns_jax.distill import Interrupted
from experiments.run import preemption

_SECONDS_BETWEEN_LINES = 15.0


def quiet() -> None:
    """Leaves out what libraries note of themselves, unless --verbosity is given."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
        # Its failures end the run with one line; these are tracebacks of its threads.
        logging.get_absl_logger().addFilter(_is_not_of_orbax)


def _is_not_of_orbax(record: LogRecord) -> bool:
    return "orbax" not in pathlib.Path(record.pathname).parts


class ProgressBar:
    """Shows how far a stage is; on process 0 only.

    Use as a context manager; the object is the callback that the library's long
    functions take as `progress`.
    """

    def __init__(self, title: str, unit: str):
        """Starts the clock.

        Args:
          title: what the work is, such as "pairs/train".
          unit: what is counted, such as "pair".
        """
        self._title, self._unit = title, unit
        self._start = self._last_line = time.monotonic()
        self._shown = jax.process_index() == 0
        self._bar: tqdm.tqdm | None = None
        self._done, self._total, self._note = 0, 0, ""
        self._printed = -1

    def __enter__(self) -> ProgressBar:
        return self

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Reports that `done` of `total` units are finished.

        Raises:
          Interrupted: if SIGTERM has come; what is finished is on disk by now.
        """
        self._show(done, total, note)
        if done < total and preemption.asked():
            raise Interrupted(f"{self._title} stopped after {done} of {total}")

    def _show(self, done: int, total: int, note: str) -> None:
        first = self._total == 0
        self._done, self._total, self._note = done, total, note
        if not self._shown:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm.tqdm(
                    desc=self._title,
                    total=total,
                    unit=self._unit,
                    initial=done,
                    dynamic_ncols=True,
                )
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif first or time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._line()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._shown and kind is None and self._done > self._printed:
            self._line()

    def _line(self) -> None:
        self._last_line, self._printed = time.monotonic(), self._done
        seconds = self._last_line - self._start
        print(
            f"{self._title:<16} {self._done:>6}/{self._total} {self._unit}s "
            f"{seconds:6.0f} s  {self._note}".rstrip(),
            flush=True,
        )
