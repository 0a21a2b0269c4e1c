"""The steps of one directory: saved in the background, restored when whole."""

from __future__ import annotations

import contextlib
import errno
import json
import operator
from typing import Any, NamedTuple

import orbax.checkpoint as ocp
from etils import epath

from bns_jax import files, lock, parallel
from bns_jax.checkpoint import json_values, leaves, manager, steps
from bns_jax.identity import differences

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class Restored(NamedTuple):
    """What `restore` found.

    Attributes:
      step: the step it was saved at.
      state: the pytree that was saved.
      metadata: the JSON values saved with it.
    """

    step: int
    state: Any
    metadata: dict[str, Any]


class Checkpointer:
    """The steps in one directory; a context manager that waits for the last save.

    Inside it the directory is of this run alone, where its file system has locks.
    Without a directory it saves nothing and finds nothing.
    """

    def __init__(self, directory: epath.PathLike | None):
        """Names a directory, which the first `save` makes if it is missing.

        Args:
          directory: of the checkpoints; None for none.

        Raises:
          ValueError: if the name is empty.
        """
        self.directory = None if directory is None else _absolute(directory)
        self._opened: ocp.CheckpointManager | None = None
        self._lock: lock.FileLock | None = None
        self._cleared = False
        self._unwritten: int | None = None

    def __enter__(self) -> Checkpointer:
        """Raises ValueError if another run is at work in the directory."""
        if self.directory is not None:
            parallel.on_main(lambda: self._claim(make=False))
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._wait()
        except OSError:
            # An error that is on its way already says more.
            if kind is None:
                raise
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of the directory, without a word of a save that failed."""
        if self._opened is not None:
            self._opened.close()
        if self._lock is not None:
            self._lock.release()

    def save(
        self, step: int, state: Any, metadata: dict[str, Any] | None = None
    ) -> None:
        """Copies a state and returns; it is written in the background.

        The last three steps are kept. Steps that are damaged make room for it.

        Args:
          step: of this state, from 0; one that exists already is overwritten.
          state: a pytree of arrays (typed PRNG keys included) and numbers.
          metadata: JSON values to keep with it; floats may be nan or infinite.

        Raises:
          OSError: if this save cannot begin, or the one before could not be written.
          ValueError: if the state is a bare array or number, holds none, or something
            else; if the metadata are no JSON; if another run is at work there.
        """
        body = {
            "format": steps.FORMAT,
            **json_values.encode(metadata or {}),
            "leaves": leaves.describe(state),
        }
        leaves.check_values(state)
        step = _check_step(step)
        if self.directory is None:
            return
        items = manager.to_save(state, body)
        self._wait()
        parallel.on_main(lambda: self._claim(make=True))
        in_the_way = {step, *(() if self._cleared else self._clear())}
        self._cleared = True
        with manager.named_errors(self.directory):
            opened = self._manager()
            for old in in_the_way.intersection(opened.all_steps()):
                opened.delete(old)
            opened.save(step, args=items, force=True)
        self._unwritten = step

    def restore(self, like: Any) -> Restored | None:
        """Restores the newest step that is whole; see the function `restore`.

        Args:
          like: a pytree of the structure, shapes and dtypes to restore.

        Returns:
          The state, its step and metadata; None if there is no step.

        Raises:
          ValueError: if no step is whole, or the newest whole one holds other leaves.
          OSError: if a step cannot be read.
        """
        expected = leaves.describe(like)
        found = self._survey()
        if found.newest is None:
            return None
        step, body = found.newest, json.loads(found.meta)
        differing = differences(body["leaves"], expected)
        if differing:
            raise ValueError(
                f"step {step} in {self.directory} cannot be restored into the "
                "expected state; " + "; ".join(differing)
            )
        state = manager.read(self._manager(), step, like)
        return Restored(step, state, json_values.decode(body))

    def metadata(self) -> dict[str, Any] | None:
        """What was saved with the newest step that is whole.

        Returns:
          The metadata; None if there is no step.

        Raises:
          ValueError: if there are steps, but all of them are damaged.
        """
        found = self._survey()
        return (
            None if found.newest is None else json_values.decode(json.loads(found.meta))
        )

    def _claim(self, make: bool) -> None:
        """Locks the directory, or sees that it still is; process 0 does, for all."""
        assert self.directory is not None
        if make:
            self.directory.mkdir(parents=True, exist_ok=True)
        if self._lock is not None and not self._lock.is_held():
            raise OSError(
                f"the lock of {self.directory} was removed: another run may be at work"
            )
        if self._lock is None and self.directory.exists():
            try:
                self._lock = lock.take(self.directory, "checkpoint directory")
            except OSError as error:
                # What is finished can be read where nothing can be written.
                if make or error.errno not in _READ_ONLY:
                    raise

    def _clear(self) -> list[int]:
        """Removes what a save that died has left; returns the steps not whole.

        Orbax would do it while the next save writes under the same name.
        """
        assert self.directory is not None
        directory = self.directory
        parallel.on_main(lambda: steps.tidy(directory))
        return self._survey().damaged

    def _survey(self) -> steps.Survey:
        """Which steps are what they were when they were saved, as process 0 sees it."""
        seen = parallel.on_main(lambda: json.dumps(steps.survey(self.directory)))
        return steps.Survey(*json.loads(seen))

    def _wait(self) -> None:
        if self._opened is None:
            return
        with manager.named_errors(self.directory):
            self._opened.wait_until_finished()
        if self._unwritten is not None and parallel.is_main():
            assert self.directory is not None
            steps.forget_paths(self.directory, self._unwritten)
        self._unwritten = None

    def _manager(self) -> ocp.CheckpointManager:
        if self._opened is None:
            assert self.directory is not None
            self._opened = manager.open_in(self.directory)
        return self._opened


def save(
    directory: epath.PathLike,
    step: int,
    state: Any,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Saves a pytree and waits until it is committed.

    Args:
      directory: of the checkpoints, made if it is missing.
      step: of this state, from 0; one that exists already is overwritten.
      state: a pytree of arrays (typed PRNG keys included) and numbers.
      metadata: JSON values to keep with it; floats may be nan or infinite.

    Raises:
      OSError: if it cannot be written.
      ValueError: as `Checkpointer.save`.
    """
    with Checkpointer(_absolute(directory)) as saver:
        saver.save(step, state, metadata)


def restore(directory: epath.PathLike, like: Any) -> Restored | None:
    """Restores the newest step that is whole.

    A step that is damaged is passed over with a warning, and the one before it taken.

    Args:
      directory: the directory given to `save`.
      like: a pytree of the structure, shapes and dtypes to restore; its arrays'
        shardings are where the restored ones are put.

    Returns:
      The state, its step and metadata; None if the directory holds no step.

    Raises:
      ValueError: if steps are there but all of them are damaged or of another version
        of this library, or the newest whole one holds other leaves than `like`: the
        message names them.
      OSError: if a step cannot be read.
    """
    # A reader takes no lock: what is committed stays whole.
    with contextlib.closing(Checkpointer(_absolute(directory))) as reader:
        return reader.restore(like)


def newest_metadata(directory: epath.PathLike) -> dict[str, Any] | None:
    """What was saved with the newest step that is whole.

    Args:
      directory: the directory given to `save`.

    Returns:
      The metadata; None if the directory holds no step.

    Raises:
      ValueError: if there are steps, but all of them are damaged.
      OSError: if a step cannot be read.
    """
    return Checkpointer(_absolute(directory)).metadata()


def _absolute(directory: epath.PathLike) -> epath.Path:
    """As orbax wants it; `resolve` would put a bucket below the working directory."""
    path = files.place(directory, "a checkpoint directory")
    return path if path.is_absolute() else path.resolve()


def _check_step(step: Any) -> int:
    try:
        number = operator.index(step)
    except TypeError:
        number = -1
    if number < 0 or isinstance(step, bool):
        raise ValueError(f"step must be an integer from 0, got {step!r:.60}")
    return number
