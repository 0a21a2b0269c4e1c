"""Files that are whole at every moment, whenever their writer dies."""

from __future__ import annotations

import os

from etils import epath


def place(path: epath.PathLike, name: str) -> epath.Path:
    """A path that somebody gave; "" would stand for the working directory.

    Raises:
      ValueError: if it is empty or none; says which argument is.
    """
    if not isinstance(path, str | os.PathLike) or not str(path) or "\0" in str(path):
        raise ValueError(f"{name} must be a path, got {path!r}")
    return epath.Path(path)


def write(path: epath.PathLike, data: str | bytes) -> None:
    """Writes a file under a temporary name, then moves it to its own.

    Whoever reads it finds what was there before or all of what is new.

    Args:
      path: the file; its folder is made.
      data: its contents; text becomes UTF-8.

    Raises:
      ValueError: if the path is empty.
      OSError: if it cannot be written; names the file, as of a full disk.
    """
    path = place(path, "the file to write")
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data.encode() if isinstance(data, str) else data)
        unfinished.replace(path)
    except OSError as error:
        raise named(error, path) from error


def named(error: OSError, path: epath.Path) -> OSError:
    """The error with the file that it is about, which a full disk does not say."""
    if error.filename is not None or error.errno is None:
        return error
    return type(error)(error.errno, error.strerror, str(path))
