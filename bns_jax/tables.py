"""Text in columns."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]], rest: str = ">") -> str:
    """Columns, the first to the left and the rest to the left (<) or right (>).

    An empty line stands for a rule.

    Args:
      lines: the cells of each line, as many in every line that is not empty.
      rest: where the columns behind the first stand, "<" or ">".

    Returns:
      The text, lines joined by newlines.
    """
    full = [line for line in lines if line]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))

    def text(line: Sequence[str]) -> str:
        sides = ["<"] + [rest] * len(widths)
        cells = map("{:{}{}}".format, line, sides, widths)
        return "  ".join(cells).rstrip()

    return "\n".join(text(line) if line else rule for line in lines)
