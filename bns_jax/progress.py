"""Progress on a terminal, where nobody says what else to do with it."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator

from bns_jax import parallel
from bns_jax.typing import Progress


@contextlib.contextmanager
def shown(given: Progress | None, title: str, unit: str) -> Iterator[Progress]:
    """The report of some work: one that is given, or a line of stderr, rewritten.

    The line is ended with the work, however that ends; silent where stderr is no
    terminal.

    Args:
      given: the owner's report, called as report(done, total, note), or None.
      title: what the work is, such as "pairs".
      unit: what is counted, such as "samples".

    Yields:
      The report.
    """
    is_open = False

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal is_open
        if not (sys.stderr.isatty() and parallel.is_main()):
            return
        line = f"{title} {done}/{total} {unit}  {note}".rstrip()
        # A line that wraps could not be rewritten.
        line = line[: shutil.get_terminal_size().columns - 1]
        # To the end of the line, or what was longer before would show.
        sys.stderr.write(f"\r{line}\x1b[K")
        sys.stderr.flush()
        is_open = True

    try:
        yield given or report
    finally:
        if is_open:
            sys.stderr.write("\n")
            sys.stderr.flush()
