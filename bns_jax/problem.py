"""What is to be sampled: one thing that pairs, searches and comparisons are of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh

from bns_jax import (
    conditioning,
    identity,
    kinds,
    metrics,
    parallel,
    probing,
    scalars,
    velocity,
)
from bns_jax.checks import check_finite, check_rows
from bns_jax.guidance import GuidedVelocity
from bns_jax.metrics.psnr import USUAL_RANGE
from bns_jax.purpose import Measured, Purpose
from bns_jax.pytree import as_pytree
from bns_jax.schedulers import Scheduler, check_scheduler
from bns_jax.typing import Array, Sample, VelocityField

_SINGLE = 1e-6
"""Scales are alike within what single precision leaves of them."""

Draw: TypeAlias = Callable[[int, np.random.Generator], tuple[Sample, tuple[Any, ...]]]
"""draw(count, rng) -> (x0, args): noise, leaves (count, ...), and its conditioning."""


def _draw_nothing(count: int, rng: np.random.Generator) -> NoReturn:
    del count, rng
    raise ValueError("how noise is drawn is not said: give bns_jax.Problem(draw=...)")


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
      name: for titles and files.
      guidance: the scale w that is in the field, see `guided`; 0 for none, None where
        it is no single number. That of a field of `velocity.guided` is read from it.
      guided_channels: how many leading channels are guided; None for all of them.
        Likewise.
      draw: draws noise and conditioning.
      decode: decode(x) -> what is looked at, an array with the batch in front, as of a
        latent model; None where that is x.
      data_range: from the least to the largest value of what is looked at, the peak of
        its PSNR; 2 for data in [-1, 1].
      data: clean samples, leaves (M, ...): `ground_truth.pairs` warns if the solved
        ones are unlike them.

    Raises:
      TypeError: if the field cannot be called.
      ValueError: if the scheduler is none, a function cannot be called, the guidance
        is no finite number, or the range is not positive.
    """

    field: VelocityField
    scheduler: Scheduler | None = None
    mesh: Mesh | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: str = ""
    guidance: float | None = 0.0
    guided_channels: int | None = None
    draw: Draw = _draw_nothing
    decode: Callable[[Any], Any] | None = None
    data_range: float = USUAL_RANGE
    data: Sample | None = None

    def __post_init__(self) -> None:
        as_pytree(self.field)  # Says if it is no function.
        check_scheduler(self.scheduler, optional=True)
        parallel.check_mesh(self.mesh)
        kinds.check("a dictionary of JSON values", self.facts, Mapping, "facts")
        if self.guidance is not None:
            scalars.finite("guidance", self.guidance)
        self._take_of_field()
        kinds.check_function("draw", self.draw, "draw(count, rng)")
        if self.decode is not None:
            kinds.check_function("decode", self.decode, "decode(x)")
        scalars.positive("data_range", self.data_range)
        if self.data is not None:
            check_rows({"data": self.data})
            check_finite("data", self.data)

    def _take_of_field(self) -> None:
        """What the field says of itself, which is not contradicted."""
        own = getattr(self.field, "scheduler", None)
        if self.scheduler is None:
            object.__setattr__(self, "scheduler", own)
        elif isinstance(own, Scheduler) and own != self.scheduler:
            raise ValueError(
                f"scheduler must be that of the field, {own!r:.200}, got "
                f"{self.scheduler!r:.200}"
            )
        if not isinstance(self.field, GuidedVelocity):
            return
        scale = self.field.number
        if self.guidance == 0.0:
            object.__setattr__(self, "guidance", scale)
            object.__setattr__(self, "guided_channels", self.field.channels)
        elif not _is_alike(scale, self.guidance):
            raise ValueError(
                f"guidance must be that of the field, {scale:g}, got {self.guidance}"
            )

    @classmethod
    def guided(
        cls,
        conditional: VelocityField,
        unconditional: VelocityField,
        scale: float | Array | None,
        *,
        channels: int | None = None,
        **settings: Any,
    ) -> Problem:
        """A model under classifier-free guidance, u = (1 + w) cond - w uncond.

        Args:
          conditional: the velocity given the conditioning.
          unconditional: the velocity without it, called with the same arguments.
          scale: w, see `velocity.guided`; 0 is unguided.
          channels: guides so many leading channels; all of them if left out.
          **settings: the other attributes.

        Returns:
          The problem, which remembers the scale.

        Raises:
          ValueError: if the scale is not finite, or channels not positive; from the
            field, if the branches differ in shape.
        """
        field = velocity.guided(conditional, unconditional, scale, channels=channels)
        return cls(field, **settings)

    @classmethod
    def of(cls, given: Problem | VelocityField) -> Problem:
        """A problem as it is, a velocity field as one of which nothing else is said.

        Args:
          given: a problem or a field.

        Returns:
          The problem.
        """
        return given if isinstance(given, Problem) else cls(given)

    @property
    def pytree(self) -> Any:
        """The field as a pytree, as it was given."""
        return as_pytree(self.field)

    @property
    def metric(self) -> Callable[[Any, Any], jax.Array]:
        """PSNR of what is looked at, in its range; one object for one and the same."""
        return metrics.decoded_psnr(self.decode, self.data_range)

    @property
    def network_calls(self) -> int:
        """Evaluations of the network per call of the field: two under guidance."""
        return 1 if self.guidance == 0 else 2

    def on(self, mesh: Mesh | None, shard_weights: bool = False) -> Problem:
        """The same on a mesh; weights that lie there already stay as they do.

        Args:
          mesh: the devices; None for one.
          shard_weights: lays large weights over them instead of on each.

        Returns:
          The problem whose field lies there.
        """
        lay = parallel.fsdp if shard_weights else parallel.place
        return dataclasses.replace(self, field=lay(self.pytree, mesh), mesh=mesh)

    def purpose(
        self, of: Mapping[str, Any], measured: Measured | None = None
    ) -> Purpose:
        """What a solver that was made for it is for, for `interchange.save`.

        Args:
          of: the identity of the solver, `Distilled.identity`, whose entries of the
            field are taken.
          measured: what the solver reaches.

        Returns:
          The scheduler, prediction, guidance, range and identity of this problem.
        """
        of_field = {key: value for key, value in of.items() if key.startswith("field")}
        name = self.facts.get("model", self.name)
        stated = self.facts.get("prediction", getattr(self.field, "prediction", None))
        return Purpose(
            scheduler=self.scheduler,
            prediction=stated,
            guidance=self.guidance,
            guided_channels=None if self.guidance is None else self.guided_channels,
            data_range=self.data_range,
            identity={**({"model": name} if name else {}), **of_field},
            measured=measured,
        )

    def place(self) -> Any:
        """The field as a pytree on the devices of the mesh.

        Returns:
          A callable pytree.
        """
        return parallel.place(self.pytree, self.mesh)

    def check_args(self, args: tuple[Any, ...]) -> None:
        """Lets the field check the conditioning; see `conditioning.check`.

        Args:
          args: of its calls, leaves (N, ...).

        Raises:
          ValueError: if the field refuses it, as a label that does not exist.
        """
        conditioning.check(self.pytree, args)

    def identity(self, x0: Sample, args: tuple[Any, ...]) -> dict[str, Any]:
        """What tells it from other problems, as JSON values.

        Args:
          x0: noise, leaves (N, ...) of which a few are looked at.
          args: their conditioning, all of which is checked.

        Returns:
          The names, checksums and probes of `identity`.

        Raises:
          ValueError: if the field mixes its samples, or returns or refuses something;
            see `probing.look`.
        """
        answers = probing.look(self.place(), x0, args, self.mesh)
        return identity.of_function("field", self.pytree, answers)


def _is_alike(one: float | None, other: float | None) -> bool:
    """Whether two scales may be one; None where it is no single number."""
    return one is None or other is None or math.isclose(one, other, rel_tol=_SINGLE)
