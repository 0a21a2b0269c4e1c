"""Saving and restoring training state with orbax, verified by checksum.

One directory holds the last few steps. Orbax writes each step under a temporary name
and commits it whole, so a run that dies while saving leaves the step before intact.
A checksum of all leaves is kept beside the state, because a flipped byte restores
without complaint otherwise.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath

from bns_jax.pytree import checksum

State = TypeVar("State")
_KEPT_STEPS = 2


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


def save(
    directory: epath.PathLike,
    step: int,
    state: Any,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Saves a pytree and waits until it is committed; keeps the last two steps.

    Args:
      directory: where the steps live; made if missing.
      step: of this state; one that exists already is overwritten.
      state: a pytree of arrays (typed PRNG keys included) and numbers.
      metadata: JSON values to keep with it.
    """
    meta = {"sha256": checksum(state), "metadata": metadata or {}}
    with _manager(directory) as manager:
        if step in manager.all_steps():
            manager.delete(step)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)
        )
        manager.save(step, args=items, force=True)
        manager.wait_until_finished()


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
      ValueError: if steps are there but none of them can be restored into `like`.
    """
    if not epath.Path(directory).exists():
        return None
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    items = ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
    )
    with _manager(directory) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        for step in steps:
            try:
                restored = manager.restore(step, args=items)
                got, expected = checksum(restored.state), restored.meta["sha256"]
                if got != expected:
                    raise ValueError(f"expected sha256 {expected}, got {got}")
                return Restored(step, restored.state, restored.meta["metadata"])
            except Exception as error:  # orbax raises bare Exception on damage
                reason = str(error).partition("\n")[0][:200]
                logging.warning(
                    "checkpoint step %d in %s is passed over: %s",
                    step,
                    directory,
                    reason,
                )
    if steps:
        raise ValueError(
            f"no step in {directory} (found {sorted(steps)}) can be restored into the "
            "expected state; it is damaged or belongs to another configuration"
        )
    return None


def newest_metadata(directory: epath.PathLike) -> dict[str, Any] | None:
    """The metadata of the newest step that has any; None if there is no such step."""
    if not epath.Path(directory).exists():
        return None
    items = ocp.args.Composite(meta=ocp.args.JsonRestore())
    with _manager(directory) as manager:
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                return manager.restore(step, args=items).meta["metadata"]
            except Exception:  # damaged: `restore` says so
                continue
    return None


def _manager(directory: epath.PathLike) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=_KEPT_STEPS,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=False,
    )
    return ocp.CheckpointManager(epath.Path(directory).resolve(), options=options)
