"""The manager of orbax, as checkpoints of this library want it: steps sealed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from bns_jax import parallel
from bns_jax.checkpoint import leaves, steps

_KEPT_STEPS = 3


def open_in(directory: epath.Path) -> ocp.CheckpointManager:
    """The manager of a directory, which keeps the last three steps.

    Args:
      directory: of the checkpoints.

    Returns:
      A manager that seals each step before it commits it.
    """
    options = ocp.CheckpointManagerOptions(
        max_to_keep=_KEPT_STEPS, step_prefix=steps.PREFIX
    )
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    state = _SealedState()
    registry.add(steps.STATE, ocp.args.StandardSave, state)
    registry.add(steps.STATE, ocp.args.StandardRestore, state)
    registry.add(steps.META, ocp.args.JsonSave, _SealedMeta())
    return ocp.CheckpointManager(directory, handler_registry=registry, options=options)


def to_save(state: Any, body: dict[str, Any]) -> ocp.args.Composite:
    """What a manager saves.

    Args:
      state: a pytree of arrays and numbers.
      body: JSON values to commit with it.

    Returns:
      The arguments of `CheckpointManager.save`.
    """
    return ocp.args.Composite(
        **{
            steps.STATE: ocp.args.StandardSave(leaves.pack(state)),
            steps.META: ocp.args.JsonSave(body),
        }
    )


def read(manager: ocp.CheckpointManager, step: int, like: Any) -> Any:
    """The state of one step.

    Args:
      manager: of its directory.
      step: that is whole.
      like: a pytree of the same paths, dtypes and shapes.

    Returns:
      The state, laid out as `like` is.
    """
    state = ocp.args.StandardRestore(leaves.abstract(like))
    restored = manager.restore(step, args=ocp.args.Composite(**{steps.STATE: state}))
    return leaves.unpack(restored[steps.STATE], like)


@contextlib.contextmanager
def named_errors(directory: epath.Path | None) -> Iterator[None]:
    """One kind of error, with the directory, of whichever library came upon it.

    Args:
      directory: of the checkpoints.

    Yields:
      Nothing.

    Raises:
      OSError: for any error inside.
    """
    try:
        yield
    except Exception as error:
        reason = str(error).partition("\n")[0][:300]
        raise OSError(
            f"a checkpoint in {directory} could not be written: {reason}"
        ) from error


class _Sealed(ocp.CheckpointHandler):
    """A handler that writes the checksums of its files, in one commit with them."""

    def finalize(self, directory: epath.Path) -> None:
        """Called when everything is written, before the commit."""
        super().finalize(directory)
        if parallel.is_main():
            steps.seal(directory)


class _SealedState(_Sealed, ocp.StandardCheckpointHandler):
    """A state with its seal."""


class _SealedMeta(_Sealed, ocp.JsonCheckpointHandler):
    """JSON values with their seal."""
