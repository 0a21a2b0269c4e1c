"""A lock on a folder that does not outlive its holder, however that dies."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import uuid
import weakref

from etils import epath

from bns_jax import lock as locks

_NAME = ".lock"
_BEAT_SECONDS = 10.0
_BEATS_UNTIL_DEAD = 3
_INSTEAD = "--workdir"


def hold(folder: epath.Path) -> object:
    """Locks a folder for as long as the returned object lives.

    On a file system the kernel keeps the lock, and drops it when the process dies.
    Where there is no such lock, as on gs://, the holder changes a file every ten
    seconds, and whoever finds it unchanged for thirty takes over. A holder whose lock
    has become another's, because it had been paused or somebody removed the file, gets
    SIGTERM, which ends it in good order.

    Raises:
      ValueError: if somebody else holds it; names the process.
      OSError: if the lock cannot be written.
    """
    kept = locks.take(folder, _INSTEAD)
    return BeatingLock(folder / _NAME) if kept is None else WatchedLock(folder, kept)


class WatchedLock:
    """The kernel's lock on a file, and a thread that sees whether the file is there."""

    def __init__(
        self, folder: epath.Path, kept: locks.FileLock, beat: float = _BEAT_SECONDS
    ):
        """Starts the thread.

        Args:
          folder: that is locked.
          kept: its lock.
          beat: seconds between two looks.
        """
        stopped = threading.Event()
        thread = threading.Thread(
            target=_keep_watching, args=(folder, kept, beat, stopped), daemon=True
        )
        thread.start()
        self.release = weakref.finalize(self, _stop_watching, kept, thread, stopped)


def _keep_watching(
    folder: epath.Path, kept: locks.FileLock, beat: float, stopped: threading.Event
) -> None:
    while not stopped.wait(beat):
        if not kept.is_held():
            _end(folder / _NAME)
            return


def _stop_watching(
    kept: locks.FileLock, thread: threading.Thread, stopped: threading.Event
) -> None:
    stopped.set()
    thread.join()
    kept.release()


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
        name = f"{locks.me()}, {uuid.uuid4().hex}"
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
                _end(path)
                return
            path.write_text(f"{name} beat {count}")


def _end(path: epath.Path) -> None:
    logging.warning("%s is no longer of this run, which ends", path)
    os.kill(os.getpid(), signal.SIGTERM)


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
    return locks.held(path.parent, (text or "").partition(" beat ")[0], _INSTEAD)
