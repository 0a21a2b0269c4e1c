"""Adaptive solves side by side: each lane takes its own steps, and the next sample.

diffrax's Dopri5 makes a step and diffrax's controller judges it. All lanes step at
once; a lane that has reached the end is handed a sample that waits, so that none stands
still until the slowest of its companions is there.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bns_jax import parallel
from bns_jax.ode import Ode
from bns_jax.typing import Array, Sample

RUNNING, FINISHED, FAILED = range(3)
MAX_STEPS = 4096
_SOLVER: Any = diffrax.Dopri5()
_FIRST_STEP = 0.05


class Lanes(NamedTuple):
    """Solves on their way, L at once; each leaf has the lanes in front.

    Attributes:
      r: (L,), the time that each has reached.
      r_next: (L,), where its next step ends.
      x: its state at r, each leaf (L, ...).
      u: the velocity there, which is the last stage of the step before.
      args: the conditioning of its sample.
      path: the field's own x at the kept times, (L, K, ...); x_0 where it is not yet.
      control: the state of its step size controller.
      steps: (L,), the steps that it took, rejected ones too.
      status: (L,), RUNNING, FINISHED or FAILED.
    """

    r: jax.Array
    r_next: jax.Array
    x: Sample
    u: Sample
    args: Any
    path: Sample
    control: Any
    steps: jax.Array
    status: jax.Array


class Waiting(NamedTuple):
    """Samples that wait for a lane; each leaf has them in front.

    Attributes:
      x0: noise.
      args: conditioning.
      u: the velocity at the start, the one evaluation that is no stage of a step.
    """

    x0: Sample
    args: Any
    u: Sample


@partial(jax.jit, static_argnames="mesh")
def begin(vf: Any, x0: Sample, args: Any, mesh: Mesh | None) -> Waiting:
    """Evaluates the field at the start of each sample.

    Args:
      vf: the field, a pytree.
      x0: noise, each leaf (L, ...).
      args: conditioning, each leaf (L, ...).
      mesh: over which the samples are laid; None for one device.

    Returns:
      The samples, ready for a lane.
    """
    ode = Ode.of(vf, x0, np.empty(0))

    def velocity(x0: Sample, args: Any) -> Sample:
        return ode.rate(ode.start, ode.at_start(x0), args)

    return _laid(Waiting(x0, args, jax.vmap(velocity)(x0, args)), mesh)


@partial(jax.jit, static_argnames="mesh")
def enter(vf: Any, waiting: Waiting, save_at: Array, mesh: Mesh | None) -> Lanes:
    """A lane for each sample that waits.

    Args:
      vf: the field, a pytree.
      waiting: L samples.
      save_at: (K,), times in [0, 1].
      mesh: over which the lanes are laid; None for one device.

    Returns:
      The lanes, before their first step.
    """
    ode = Ode.of(vf, waiting.x0, save_at)
    controller, order = _controller(1.0, 1.0, ode.start.dtype)

    def lane(one: Waiting) -> Lanes:
        x0, args, u = one
        x = ode.at_start(x0)
        r_next, control = controller.init(
            ode.term, ode.start, 1.0, x, _FIRST_STEP, args, _SOLVER.func, order
        )
        path = jax.tree.map(lambda x: jnp.stack([x] * len(ode.times)), x0)
        control = jax.tree.map(jnp.asarray, control)
        zero, running = jnp.asarray([0, RUNNING], jnp.int32)
        return Lanes(
            ode.start,
            _at_most_1(r_next),
            x,
            u,
            args,
            path,
            control,
            zero,
            running,
        )

    return _laid(jax.vmap(lane)(waiting), mesh)


@partial(jax.jit, static_argnames="mesh", donate_argnames="lanes")
def advance(
    vf: Any, lanes: Lanes, save_at: Array, rtol: float, atol: float, mesh: Mesh | None
) -> tuple[Lanes, jax.Array]:
    """One step in each lane that runs, taken or rejected: six evaluations of the field.

    Args:
      vf: the field, a pytree.
      lanes: L of them.
      save_at: (K,), times in [0, 1].
      rtol: relative tolerance of a step.
      atol: absolute tolerance of a step.
      mesh: over which the lanes are laid; None for one device.

    Returns:
      The lanes, and their status, which every device has whole.
    """
    ode = Ode.of(vf, lanes.x, save_at)
    controller, order = _controller(rtol, atol, ode.start.dtype)
    no = jnp.zeros((), bool)

    def step(lane: Lanes) -> Lanes:
        r, r_next, x, u = lane[:4]
        y, error, dense, (_, u_next), _ = _SOLVER.step(
            ode.term, r, r_next, x, lane.args, (no, u), no
        )
        kept, r_reached, r_aim, _, control, result = controller.adapt_step_size(
            r, r_next, x, y, lane.args, error, order, lane.control
        )
        points = jax.vmap(_SOLVER.interpolation_cls(t0=r, t1=r_next, **dense).evaluate)
        inside = kept & (r < ode.times) & (ode.times <= r_next)
        path = _where(inside, ode.own(points(ode.times)), lane.path)
        x, u = _where(kept, (y, u_next), (x, u))
        steps = lane.steps + 1
        lost = (result != diffrax.RESULTS.successful) | ~jnp.isfinite(r_aim)
        status = jnp.where(lost | (steps >= MAX_STEPS), FAILED, RUNNING)
        status = jnp.where(kept & (r_next >= 1), FINISHED, status).astype(jnp.int32)
        stepped = lane._replace(
            r=r_reached,
            r_next=_at_most_1(r_aim),
            x=x,
            u=u,
            path=path,
            control=control,
            steps=steps,
            status=status,
        )
        return _where(lane.status == RUNNING, stepped, lane)

    lanes = _laid(jax.vmap(step)(lanes), mesh)
    return lanes, _laid(lanes.status, mesh, whole=True)


@partial(jax.jit, static_argnames="mesh", donate_argnames="lanes")
def refill(
    vf: Any,
    lanes: Lanes,
    waiting: Waiting,
    source: Array,
    save_at: Array,
    mesh: Mesh | None,
) -> Lanes:
    """Puts samples that wait into lanes.

    Args:
      vf: the field, a pytree.
      lanes: L of them.
      waiting: samples.
      source: (L,), which of these a lane takes; -1 where it goes on.
      save_at: (K,), times in [0, 1].
      mesh: over which the lanes are laid; None for one device.

    Returns:
      L lanes.
    """
    chosen = jax.tree.map(lambda leaf: leaf[source], waiting)
    entered = enter(vf, chosen, save_at, mesh)
    return _laid(jax.vmap(_where)(jnp.asarray(source) >= 0, entered, lanes), mesh)


class Arrived(NamedTuple):
    """Solves that are over; each leaf has the samples in front.

    Attributes:
      x1: x(1) of each.
      path: the field's own x at the kept times, (m, K, ...).
      steps: (m,), the steps that it took.
      status: (m,), FINISHED or FAILED.
      t: (m,), the field's time that it has reached.
    """

    x1: Sample
    path: Sample
    steps: jax.Array
    status: jax.Array
    t: jax.Array


@partial(jax.jit, static_argnames="mesh")
def read(vf: Any, lanes: Lanes, chosen: Array, mesh: Mesh | None) -> Arrived:
    """What some lanes hold, which every device then has whole.

    Args:
      vf: the field.
      lanes: L of them.
      chosen: (m,), which ones.
      mesh: over which the lanes are laid; None for one device.

    Returns:
      Their ends.
    """
    lanes = jax.tree.map(lambda leaf: leaf[chosen], lanes)
    t = jax.vmap(Ode.of(vf, lanes.x, np.empty(0)).t)(lanes.r)
    ends = Arrived(lanes.x, lanes.path, lanes.steps, lanes.status, t)
    return _laid(ends, mesh, whole=True)


def _controller(rtol: Any, atol: Any, dtype: Any) -> tuple[Any, float]:
    """The PI controller of Gustafsson (1991), and the order of what it judges."""
    least = 10 * float(jnp.finfo(dtype).eps)
    controller = diffrax.PIDController(
        rtol, atol, pcoeff=0.4, icoeff=0.3, dtmin=least, force_dtmin=False
    )
    return controller, float(_SOLVER.order(None))


def _at_most_1(r: jax.Array) -> jax.Array:
    """The end, where next to nothing would be left to it."""
    return jnp.where(r > 1 - 10 * jnp.finfo(r.dtype).eps, jnp.ones_like(r), r)


def _where(condition: jax.Array, new: Any, old: Any) -> Any:
    """One of two trees, by a condition on leading axes."""

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        tail = (1,) * (jnp.ndim(new) - condition.ndim)
        return jnp.where(condition.reshape(condition.shape + tail), new, old)

    return jax.tree.map(pick, new, old)


def _laid(tree: Any, mesh: Mesh | None, whole: bool = False) -> Any:
    """Over the mesh by the leading axis, or `whole` on every device."""
    if mesh is None:
        return tree
    if whole:
        sharding = parallel.replicated(mesh)
    else:
        sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    return jax.lax.with_sharding_constraint(tree, sharding)
