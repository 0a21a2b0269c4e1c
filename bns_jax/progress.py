"""Progress on a terminal, where nobody says what else to do with it."""

from __future__ import annotations

import sys

from bns_jax import parallel
from bns_jax.typing import Progress


def on_terminal(title: str, unit: str) -> Progress:
    """A report that rewrites one line of stderr; silent where that is no terminal.

    Args:
      title: what the work is, such as "pairs".
      unit: what is counted, such as "samples".

    Returns:
      The report, called as report(done, total, note).
    """

    def report(done: int, total: int, note: str = "") -> None:
        if not (sys.stderr.isatty() and parallel.is_main()):
            return
        line = f"{title} {done}/{total} {unit}  {note}".rstrip()
        # To the end of the line, or what was longer before would show.
        end = "\n" if done >= total else ""
        sys.stderr.write(f"\r{line}\x1b[K{end}")
        sys.stderr.flush()

    return report
