"""What is to be sampled: one thing that pairs, searches and comparisons are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from bns_jax import conditioning, identity, kinds, parallel, probing
from bns_jax.pytree import as_pytree
from bns_jax.schedulers import Scheduler, check_scheduler
from bns_jax.typing import Sample, VelocityField


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model to sample from, and what belongs to it.

    Wherever a Problem is taken, a bare velocity field is too: `Problem.of(field)`.

    Attributes:
      field: the velocity, called as field(t, x, *args) with a batch and a scalar t.
      scheduler: the path that it was trained on; that of the field itself, where it
        was made by `velocity.from_*`, if None.
      mesh: the devices that batches are laid over, along its first axis; None for one.
        Weights that lie on these devices already stay as they are sharded.
      facts: JSON values that `ground_truth.pairs` keeps with its pairs, and compares
        when they are continued: the name of the model, its configuration.
    """

    field: VelocityField
    scheduler: Scheduler | None = None
    mesh: Mesh | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        as_pytree(self.field)  # Says if it is no function.
        check_scheduler(self.scheduler, optional=True)
        parallel.check_mesh(self.mesh)
        kinds.check("a dictionary of JSON values", self.facts, Mapping, "facts")
        if self.scheduler is None:
            own = getattr(self.field, "scheduler", None)
            object.__setattr__(self, "scheduler", own)

    @classmethod
    def of(cls, given: Problem | VelocityField) -> Problem:
        """A problem as it is, a velocity field as one of which nothing else is said."""
        return given if isinstance(given, Problem) else cls(given)

    @property
    def pytree(self) -> Any:
        """The field as a pytree, as it was given."""
        return as_pytree(self.field)

    def place(self) -> Any:
        """The field as a pytree on the devices of the mesh."""
        return parallel.place(self.pytree, self.mesh)

    def check_args(self, args: tuple[Any, ...]) -> None:
        """Lets the field check the conditioning; see `conditioning.check`."""
        conditioning.check(self.pytree, args)

    def identity(self, x0: Sample, args: tuple[Any, ...]) -> dict[str, Any]:
        """What tells it from other problems, as JSON values.

        Args:
          x0: noise, leaves (N, ...) of which a few are looked at.
          args: their conditioning, all of which is checked.

        Raises:
          ValueError: if the field mixes its samples, or returns or refuses something;
            see `probing.look`.
        """
        answers = probing.look(self.place(), x0, args, self.mesh)
        return identity.of_function("field", self.pytree, answers)
