"""A model's velocity on the path of another scheduler, finite up to the end."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from bns_jax import conditioning
from bns_jax.scale_time.change import between
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Sample, Time
from bns_jax.velocity import between_ends, divide, time_like


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RescheduledVelocity:
    """A model's velocity on the path of another scheduler.

    The same field as `transform(vf, between(vf.scheduler, target))`, but formed from
    the model's prediction: it is finite where the original velocity diverges, as that
    of an eps-prediction under VP does at t = 1.

    Attributes:
      vf: a field with `scheduler` and `ends`, such as `velocity.from_epsilon` makes.
      target: the scheduler to move to.
    """

    vf: Any
    target: Scheduler = dataclasses.field(metadata={"static": True})

    def check_args(self, args: tuple[Any, ...]) -> None:
        """Lets the field check the conditioning; see `conditioning.check`.

        Args:
          args: the conditioning of all samples, concrete.

        Raises:
          ValueError: if the field refuses it.
        """
        conditioning.check(self.vf, args)

    def __call__(self, r: Time, x: Sample, *args: Any) -> Sample:
        """The velocity of x_bar at r, like x."""
        r = time_like(r, x)
        change = between(self.vf.scheduler, self.target)
        ends = self.vf.ends(change.t(r), divide(x, change.s(r)), *args)
        velocity = between_ends(ends, self.target, r)
        return jax.tree.map(lambda u, x: u.astype(x.dtype), velocity, x)
