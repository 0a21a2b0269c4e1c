"""What is to be sampled: one thing that pairs, searches and comparisons are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bns_jax import conditioning, identity, parallel, probing, scalars
from bns_jax.guidance import guided
from bns_jax.pytree import as_pytree
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Sample, VelocityField

Draw = Callable[[int, np.random.Generator], tuple[Sample, tuple[Any, ...]]]
"""draw(count, rng) -> (x0, args): noise and conditioning, leaves (count, ...)."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model to sample from, and what belongs to it.

    Wherever a Problem is taken, a bare velocity field is too: `Problem.of(field)`.

    Attributes:
      field: the velocity, called as field(t, x, *args) with a batch and a scalar t.
      scheduler: the path that it was trained on; that of the field itself, where it
        was made by `velocity.from_*`, if None.
      draw: what it samples from.
      decode: decode(x) -> what is looked at and judged, such as the images of latents;
        the samples themselves if None.
      data_range: from the least to the largest value of decoded data, the peak of
        every PSNR; 2 for data in [-1, 1].
      guidance: the scale w of u = (1 + w) u_cond - w u_uncond that the field has in
        it; None if it has none.
      mesh: the devices that batches are laid over, along its first axis; None for one.
        Weights that lie on these devices already stay as they are sharded.
      facts: JSON values that tell it from others, beside what is compared anyway: the
        name of the model, its configuration.
    """

    field: VelocityField
    scheduler: Scheduler | None = None
    draw: Draw | None = None
    decode: Callable[[Sample], Sample] | None = None
    data_range: float = 2.0
    guidance: float | None = None
    mesh: Mesh | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        as_pytree(self.field)  # Says if it is no function.
        if not isinstance(self.scheduler, Scheduler | None):
            raise ValueError(
                "expected a scheduler, such as schedulers.cond_ot(), got "
                f"{self.scheduler!r:.60}"
            )
        value = scalars.positive("data_range", self.data_range)
        object.__setattr__(self, "data_range", value)
        if self.scheduler is None:
            own = getattr(self.field, "scheduler", None)
            object.__setattr__(self, "scheduler", own)

    @classmethod
    def of(cls, given: Problem | VelocityField) -> Problem:
        """A problem as it is, a velocity field as one of which nothing else is said."""
        return given if isinstance(given, Problem) else cls(given)

    @classmethod
    def guided(
        cls, cond: VelocityField, uncond: VelocityField, scale: float, **rest: Any
    ) -> Problem:
        """A problem under classifier-free guidance; see `velocity.guided`.

        Args:
          cond: the conditional field.
          uncond: the unconditional one, called with the same arguments.
          scale: w.
          **rest: the other attributes.
        """
        return cls(guided(cond, uncond, scale), guidance=float(scale), **rest)

    def on(self, mesh: Mesh | None) -> Problem:
        """The same on other devices."""
        return dataclasses.replace(self, mesh=mesh)

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

    def noise(self, count: int, seed: int) -> tuple[Sample, tuple[Any, ...]]:
        """What it samples from: (x0, args) with leading axis `count`.

        Raises:
          ValueError: if the problem does not say.
        """
        if self.draw is None:
            raise ValueError(
                "this problem does not say what it samples from: expected "
                "Problem(field, draw=lambda count, rng: (x0, args))"
            )
        return self.draw(scalars.count("count", count), np.random.default_rng(seed))


def decoded(problem: Problem, x: Sample) -> Sample:
    """Samples as they are looked at."""
    return x if problem.decode is None else jax.jit(problem.decode)(x)
