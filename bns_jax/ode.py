"""The ODE that the reference solves solve, and how it is of a field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp

from bns_jax.checks import check_velocity
from bns_jax.scale_time import RescheduledVelocity, between
from bns_jax.scale_time import identity as no_change
from bns_jax.schedulers import Scheduler, cond_ot
from bns_jax.typing import Array, Sample, wider


class Ode(NamedTuple):
    """x' = rate(r, x, args) from `start` to 1.

    A model's velocity is solved as x_bar(r) on the cond-OT path, where it is finite up
    to the end (eq. 6-8), others as they are. Both start where the field's own t is 0.

    Attributes:
      rate: rate(r, x, args) of one sample; nan where the field is not finite.
      start: where r starts.
      start_scale: of x there over the field's own.
      times: (K,), r at the kept times.
      scales: (K,), of the field's own x over that of the ODE, at these.
      t: t(r), the field's own time.
    """

    rate: Callable[[Any, Sample, Any], Sample]
    start: jax.Array
    start_scale: Array
    times: jax.Array
    scales: Array
    t: Callable[[Any], Any]

    @classmethod
    def of(cls, vf: Any, x: Sample, save_at: Array) -> Ode:
        """That of a field.

        Args:
          vf: the field, a pytree.
          x: samples, whose precision it takes.
          save_at: (K,), times in [0, 1].

        Returns:
          The ODE.
        """
        dtype = wider(*(leaf.dtype for leaf in jax.tree.leaves(x)))
        save_at, zero = jnp.asarray(save_at, dtype), jnp.zeros((), dtype)
        scheduler = scheduler_of(vf)
        field, there, back = vf, no_change(), no_change()
        if scheduler is not None:
            field = RescheduledVelocity(vf, cond_ot())
            there, back = between(cond_ot(), scheduler), between(scheduler, cond_ot())

        def rate(r: Any, x: Sample, args: Any) -> Sample:
            batch_x, batch_args = jax.tree.map(lambda leaf: leaf[None], (x, args))
            u = field(r, batch_x, *batch_args)
            check_velocity(u, batch_x, r)
            # The controller gives up on nan at once, but tries on against infinity.
            return jax.tree.map(lambda u: jnp.where(jnp.isfinite(u), u, jnp.nan)[0], u)

        start, times = jnp.asarray(there.t(zero)), jnp.asarray(there.t(save_at))
        scale, scales = there.s(zero), there.s(save_at)
        return cls(rate, start, scale, times, scales, back.t)

    @property
    def term(self) -> diffrax.ODETerm:
        """The same for diffrax."""
        return diffrax.ODETerm(self.rate)

    def at_start(self, x0: Sample) -> Sample:
        """The noise of one sample as a state of the ODE.

        Args:
          x0: noise.

        Returns:
          The same scaled.
        """
        return jax.tree.map(lambda x: x / self.start_scale, x0)

    def own(self, points: Sample) -> Sample:
        """The field's own x at all of the kept times.

        Args:
          points: x of the ODE there, each leaf (K, ...).

        Returns:
          The same scaled.
        """
        return jax.tree.map(lambda x: jax.vmap(jnp.multiply)(x, self.scales), points)


def scheduler_of(vf: Any) -> Scheduler | None:
    """The path of a field that names both of its ends.

    Args:
      vf: the field.

    Returns:
      Its scheduler; None for other fields.
    """
    return vf.scheduler if hasattr(vf, "ends") else None
