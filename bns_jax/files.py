"""Files that are whole at every moment, whenever their writer dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

from etils import epath

_PART = 2**20


def place(path: epath.PathLike, name: str) -> epath.Path:
    """A path that somebody gave; "" would stand for the working directory.

    Args:
      path: a text, or anything with __fspath__; of any scheme that etils.epath knows.
      name: of the argument, for the message.

    Returns:
      The path.

    Raises:
      ValueError: if it is empty or none; says which argument is.
    """
    if not isinstance(path, str | os.PathLike) or not str(path) or "\0" in str(path):
        raise ValueError(f"{name} must be a path, got {path!r:.60}")
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
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)  # A full disk has no room for it.
        raise named(error, path) from error


def named(error: OSError, path: epath.Path) -> OSError:
    """The error with the file that it is about, which a full disk does not say.

    Args:
      error: that was raised.
      path: of the file.

    Returns:
      An error of the same kind; the same one if it names a file.
    """
    if error.filename is not None or error.errno is None:
        return error
    return type(error)(error.errno, error.strerror, str(path))


class Missing(ValueError):
    """There is no file of this path."""


@contextlib.contextmanager
def opened(path: epath.PathLike, kind: str) -> Iterator[IO[bytes]]:
    """A file to read bytes from.

    Args:
      path: the file.
      kind: what it should be, for the message: "solver", "weights", ...

    Yields:
      The file, open for reading bytes.

    Raises:
      Missing: if there is no such file.
      OSError: if there is, but it cannot be read.
    """
    file_path = place(path, f"the {kind} file")
    try:
        file = file_path.open("rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise Missing(f"no {kind} file at {path}") from error
    with file:
        yield file


def read(path: epath.PathLike, kind: str, at_most: int | None = None) -> bytes:
    """The content of a file; see `opened`.

    Args:
      path: the file.
      kind: what it should be.
      at_most: how many bytes it may have; any number if None.

    Returns:
      All bytes of it.

    Raises:
      ValueError: if it has more, of which few more are read.
    """
    with opened(path, kind) as file:
        if at_most is None:
            return file.read()
        content = b""
        # By parts: a read of so many bytes would take their memory at once.
        while len(content) <= at_most and (part := file.read(_PART)):
            content += part
    if len(content) > at_most:
        raise ValueError(
            f"{path} is no {kind} file: expected at most {at_most} bytes, got more"
        )
    return content


def not_data(content: bytes) -> str:
    """What a file is instead of data, in words; "" if it may be data.

    Args:
      content: of the file, or how it begins.

    Returns:
      The words, for a message.
    """
    if not content:
        return "it is empty"
    if content.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: `git lfs pull` brings the file itself"
    begin = content[:512].lstrip(b"\xef\xbb\xbf\t\r\n ").lower()
    if begin.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "it is a page of HTML or XML, as a download that failed leaves behind"
    return ""
