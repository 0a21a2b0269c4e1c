"""Saving and restoring training state with orbax, verified by checksum.

One directory holds the last few steps. Orbax writes each step under a temporary name
and commits it whole, in the background, so a run that dies while saving leaves the
steps before intact. A flipped byte restores without complaint, so each step is sealed
before its commit by the checksums of its files, and damaged ones never reach orbax.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath

from bns_jax import parallel
from bns_jax.identity import differences

State = TypeVar("State")
_KEPT_STEPS = 3
_STATE, _META, _SEAL = "state", "meta", "sha256.json"
_UNFINISHED = ".orbax-checkpoint-tmp"


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


class _Survey(NamedTuple):
    """The newest whole step, the text of its meta item, and the steps not whole."""

    newest: int | None
    meta: str
    damaged: list[int]


class Checkpointer:
    """The steps in one directory; a context manager that waits for the last save.

    Without a directory it saves nothing and finds nothing.
    """

    def __init__(self, directory: epath.PathLike | None):
        """Opens a directory, which the first `save` makes if it is missing."""
        self.directory = None if directory is None else _absolute(directory)
        self._opened: ocp.CheckpointManager | None = None
        self._cleared = False

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self._wait()
        except OSError:
            # An error that is on its way already says more.
            if kind is None:
                raise
        finally:
            if self._opened is not None:
                self._opened.close()

    def save(
        self, step: int, state: Any, metadata: dict[str, Any] | None = None
    ) -> None:
        """Copies a state and returns; it is written in the background.

        The last three steps are kept. Steps that are damaged make room for it.

        Args:
          step: of this state; one that exists already is overwritten.
          state: a pytree of arrays (typed PRNG keys included) and numbers.
          metadata: JSON values to keep with it.

        Raises:
          OSError: if this save cannot begin, or the one before could not be written.
          ValueError: if the state is a bare array or number, or holds none.
        """
        _check(state)
        if self.directory is None:
            return
        body = {"metadata": metadata or {}, "leaves": _describe(state)}
        items = ocp.args.Composite(
            **{_STATE: ocp.args.StandardSave(state), _META: ocp.args.JsonSave(body)}
        )
        self._wait()
        in_the_way = {step, *(() if self._cleared else self._clear())}
        self._cleared = True
        manager = self._manager()
        for old in in_the_way.intersection(manager.all_steps()):
            manager.delete(old)
        manager.save(step, args=items, force=True)

    def restore(self, like: State) -> Restored | None:
        """Restores the newest step that is whole; see the function `restore`."""
        found = self._survey()
        if found.newest is None:
            return None
        step, body = found.newest, json.loads(found.meta)
        differing = differences(body["leaves"], _describe(like))
        if differing:
            raise ValueError(
                f"step {step} in {self.directory} cannot be restored into the "
                "expected state; " + "; ".join(differing)
            )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(abstract)})
        restored = self._manager().restore(step, args=items)
        return Restored(step, restored[_STATE], body["metadata"])

    def metadata(self) -> dict[str, Any] | None:
        """The metadata of the newest step that is whole; None if there is no step.

        Raises:
          ValueError: if there are steps, but all of them are damaged.
        """
        found = self._survey()
        return None if found.newest is None else json.loads(found.meta)["metadata"]

    def _clear(self) -> list[int]:
        """Removes what a save that died has left; returns the steps not whole.

        Orbax would do it while the next save writes under the same name.
        """
        assert self.directory is not None
        if parallel.is_main() and self.directory.exists():
            for path in self.directory.iterdir():
                if _UNFINISHED in path.name:
                    path.rmtree()
        return self._survey().damaged

    def _survey(self) -> _Survey:
        """Which steps are what they were when they were saved, as process 0 sees it."""
        seen = json.dumps(_survey(self.directory)) if parallel.is_main() else ""
        found = _Survey(*json.loads(parallel.gather_text(seen)[0]))
        if found.damaged and found.newest is None:
            raise ValueError(
                f"no step in {self.directory} (found {found.damaged}) can be "
                "restored: all of them are damaged"
            )
        return found

    def _wait(self) -> None:
        if self._opened is None:
            return
        try:
            self._opened.wait_until_finished()
        except Exception as error:  # of whichever library came upon it
            reason = str(error).partition("\n")[0][:300]
            raise OSError(
                f"a checkpoint in {self.directory} could not be written: {reason}"
            ) from error

    def _manager(self) -> ocp.CheckpointManager:
        if self._opened is None:
            options = ocp.CheckpointManagerOptions(max_to_keep=_KEPT_STEPS)
            registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
            state = _SealedState()
            registry.add(_STATE, ocp.args.StandardSave, state)
            registry.add(_STATE, ocp.args.StandardRestore, state)
            registry.add(_META, ocp.args.JsonSave, _SealedMeta())
            self._opened = ocp.CheckpointManager(
                self.directory, handler_registry=registry, options=options
            )
        return self._opened


def _absolute(directory: epath.PathLike) -> epath.Path:
    """As orbax wants it; `resolve` would put a bucket below the working directory."""
    path = epath.Path(directory)
    return path if path.is_absolute() else path.resolve()


def save(
    directory: epath.PathLike,
    step: int,
    state: Any,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Saves a pytree and waits until it is committed; see `Checkpointer.save`."""
    with Checkpointer(directory) as saver:
        saver.save(step, state, metadata)


def restore(directory: epath.PathLike, like: State) -> Restored | None:
    """Restores the newest step that is whole.

    A step that is damaged is passed over with a warning, and the one before it taken.

    Args:
      directory: the directory given to `save`.
      like: a pytree of the structure, shapes and dtypes to restore; its arrays'
        shardings are where the restored ones are put.

    Returns:
      The state, its step and metadata; None if the directory holds no step.

    Raises:
      ValueError: if steps are there but all of them are damaged, or the newest whole
        one holds other leaves than `like`: the message names them.
    """
    with Checkpointer(directory) as saver:
        return saver.restore(like)


def newest_metadata(directory: epath.PathLike) -> dict[str, Any] | None:
    """The metadata of the newest step that is whole; None if there is no step."""
    with Checkpointer(directory) as saver:
        return saver.metadata()


class _SealedState(ocp.StandardCheckpointHandler):
    """A state with the checksums of its files, all of it one commit."""

    def finalize(self, directory: epath.Path) -> None:
        """Called when everything is written, before the commit."""
        super().finalize(directory)
        _seal(directory)


class _SealedMeta(ocp.JsonCheckpointHandler):
    """JSON values with their checksum, in one commit with the state."""

    def finalize(self, directory: epath.Path) -> None:
        """Called when everything is written, before the commit."""
        super().finalize(directory)
        _seal(directory)


def _seal(directory: epath.Path) -> None:
    if parallel.is_main():
        (directory / _SEAL).write_text(json.dumps(dict(_checksums(directory))))


def _check_seal(directory: epath.Path) -> None:
    """Raises ValueError or OSError unless every sealed file is there and unchanged."""
    sealed = json.loads((directory / _SEAL).read_text())
    found = dict(_checksums(directory))
    for name, digest in sealed.items():
        if found.get(name) != digest:
            raise ValueError(
                f"{directory / name}: expected sha256 {digest}, got {found.get(name)}"
            )


def _checksums(directory: epath.Path) -> Iterator[tuple[str, str]]:
    """Every file below a directory but the seal itself, with its checksum."""
    for path in sorted(directory.iterdir()):
        if path.is_dir():
            for name, digest in _checksums(path):
                yield f"{path.name}/{name}", digest
        elif path.name != _SEAL:
            yield path.name, hashlib.sha256(path.read_bytes()).hexdigest()


def _survey(directory: epath.Path | None) -> _Survey:
    """Compares every step with its seal."""
    newest, meta, damaged = None, "", []
    for step in sorted(_steps(directory)):
        assert directory is not None
        folder = directory / str(step)
        try:
            _check_seal(folder / _STATE)
            _check_seal(folder / _META)
            newest, meta = step, (folder / _META / "metadata").read_text()
        except (OSError, ValueError) as error:
            damaged.append(step)
            logging.warning(
                "checkpoint step %d in %s is passed over: %s", step, directory, error
            )
    return _Survey(newest, meta, damaged)


def _steps(directory: epath.Path | None) -> list[int]:
    """The steps that orbax has committed, by their names."""
    if directory is None or not directory.exists():
        return []
    return [int(path.name) for path in directory.iterdir() if path.name.isdigit()]


def _check(state: Any) -> None:
    # Orbax refuses these too, but once its threads wait for a save that never comes.
    leaves = jax.tree.leaves(state)
    if not leaves or leaves[0] is state:
        raise ValueError(
            "a state must be a dict, tuple or other tree with arrays in it, got "
            f"{'a bare' if leaves else 'an empty'} {type(state).__name__}"
        )


def _describe(state: Any) -> dict[str, str]:
    """The path, dtype and shape of every leaf: what decides whether a state fits."""
    shapes = jax.eval_shape(lambda tree: tree, state)
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }
