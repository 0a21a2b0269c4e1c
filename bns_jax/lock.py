"""A lock on a folder of a file system, which the kernel drops when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import weakref

from etils import epath

try:
    import fcntl
except ImportError:  # Windows has no such lock.
    fcntl = None  # type: ignore[assignment]

_NAME = ".lock"
_HAS_NONE = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


class FileLock:
    """The kernel's lock on a file of a folder, held as long as the object lives.

    The file says who holds it, and goes with the lock.
    """

    def __init__(self, folder: epath.Path, instead: str):
        """Takes the lock.

        Args:
          folder: which exists.
          instead: what to choose another one of, for the message.

        Raises:
          ValueError: if somebody else holds it; names the process.
          OSError: if the lock's file cannot be written.
        """
        self._path = folder / _NAME
        self._handle = _locked(self._path, instead)
        self.release = weakref.finalize(self, _release, self._path, self._handle)

    def is_held(self) -> bool:
        """Whether the file that is locked is still the one of that name.

        Returns:
          False if somebody removed or replaced the file.
        """
        return _is_at(self._path, self._handle)


def take(folder: epath.Path, instead: str) -> FileLock | None:
    """A `FileLock`; None where there is no such lock, as on gs://.

    Args:
      folder: which exists.
      instead: what to choose another one of, for the message.

    Returns:
      The lock, or None.

    Raises:
      ValueError: if somebody else holds it; names the process.
      OSError: if the lock's file cannot be written.
    """
    if fcntl is None or "://" in str(folder):
        return None
    try:
        return FileLock(folder, instead)
    except OSError as error:
        # Some network file systems have none.
        if error.errno in _HAS_NONE:
            return None
        raise


def held(folder: epath.Path, holder: str, instead: str) -> ValueError:
    """The error of whoever comes second.

    Args:
      folder: that is locked.
      holder: who holds it, as `me` says; "" if nobody knows.
      instead: what to choose another one of.

    Returns:
      The error, to be raised.
    """
    return ValueError(
        f"{folder} is in use by another run ({holder or 'unknown'}); wait for it, or "
        f"choose another {instead}"
    )


def me() -> str:
    """This process, for people.

    Returns:
      Its number and the name of its machine.
    """
    return f"process {os.getpid()} on {platform.node()}"


def _locked(path: epath.Path, instead: str) -> int:
    """A handle of the file of this name, once it is locked."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed it between the two calls.
            if _is_at(path, handle):
                os.ftruncate(handle, 0)
                os.write(handle, me().encode())
                return handle
            os.close(handle)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace")
            os.close(handle)
            raise held(path.parent, holder, instead) from None
        except OSError:
            os.close(handle)
            raise


def _is_at(path: epath.Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _release(path: epath.Path, handle: int) -> None:
    with contextlib.suppress(OSError):
        if _is_at(path, handle):
            os.unlink(path)
    os.close(handle)
