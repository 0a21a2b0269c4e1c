"""A lock on a folder that does not outlive its holder, however that dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import signal
import threading
import time
import uuid
import weakref

from etils import epath

_NAME = ".lock"
_BEAT_SECONDS = 10.0
_BEATS_UNTIL_DEAD = 3


def hold(folder: epath.Path) -> object:
    """Locks a folder for as long as the returned object lives.

    On a file system the kernel keeps the lock, and drops it when the process dies.
    Where there is no such lock, as on gs://, the holder changes a file every ten
    seconds, and whoever finds it unchanged for thirty takes over; a holder that had
    only been paused then gets SIGTERM, which ends it in good order.

    Raises:
      ValueError: if somebody else holds it; names the process.
    """
    path = folder / _NAME
    if "://" not in str(path):
        try:
            return _FileLock(path)
        except OSError as error:
            # Some network file systems have no locks.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
    return BeatingLock(path)


class _FileLock:
    """The kernel's lock on a local file."""

    def __init__(self, path: epath.Path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._close = weakref.finalize(self, os.close, handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace")
            self._close()
            raise _held(path, holder) from None
        except OSError:
            self._close()
            raise
        os.ftruncate(handle, 0)
        os.write(handle, _me().encode())


class BeatingLock:
    """A file that its holder keeps changing."""

    def __init__(self, path: epath.Path, beat: float = _BEAT_SECONDS):
        """Takes the lock; waits until its last holder is known to be dead.

        Args:
          path: of the lock's file.
          beat: seconds between changes.

        Raises:
          ValueError: if it is held.
        """
        seen = _read(path)
        if seen is not None:
            time.sleep(_BEATS_UNTIL_DEAD * beat)
            now = _read(path)
            if now not in (seen, None):
                raise _held(path, now or seen)
        name = f"{_me()}, {uuid.uuid4().hex}"
        path.write_text(name)
        # Of two that come at once, the later one has it.
        time.sleep(beat / 2)
        now = _read(path)
        if now != name:
            raise _held(path, now)
        stopped = threading.Event()
        thread = threading.Thread(
            target=_keep_beating, args=(path, name, beat, stopped), daemon=True
        )
        thread.start()
        self.release = weakref.finalize(self, _release, path, name, thread, stopped)


def _keep_beating(
    path: epath.Path, name: str, beat: float, stopped: threading.Event
) -> None:
    """Beats until it is stopped; ends the run if the lock has become another's."""
    count = 0
    while not stopped.wait(beat):
        count += 1
        # Whatever the client of a bucket raises: the next beat may come through, and
        # finds out if it is too late.
        with contextlib.suppress(Exception):
            text = _read(path)
            # A beat that failed may leave the file empty.
            if text != "" and not _is_of(name, text):
                logging.warning("%s is no longer of this run, which ends", path)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            path.write_text(f"{name} beat {count}")


def _release(
    path: epath.Path, name: str, thread: threading.Thread, stopped: threading.Event
) -> None:
    stopped.set()
    thread.join()
    # A file that stays is dead after three beats.
    with contextlib.suppress(Exception):
        if _is_of(name, _read(path)):
            path.unlink(missing_ok=True)


def _is_of(name: str, text: str | None) -> bool:
    return text is not None and text.startswith(name)


def _read(path: epath.Path) -> str | None:
    """What is there; None if nothing is, perhaps "" while somebody writes."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _held(path: epath.Path, text: str | None) -> ValueError:
    holder = (text or "unknown").partition(" beat ")[0]
    return ValueError(
        f"{path.parent} is in use by another run ({holder}); wait for it, or choose "
        "another --workdir"
    )


def _me() -> str:
    return f"process {os.getpid()} on {os.uname().nodename}"
