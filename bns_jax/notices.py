"""Warnings, said of the line that called the library."""

from __future__ import annotations

import inspect
import os
import warnings

_HOME = os.path.dirname(__file__) + os.sep


def warn(message: str) -> None:
    """Warns at the nearest line outside the library, however deep inside this is.

    Args:
      message: of the UserWarning.
    """
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_HOME):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
