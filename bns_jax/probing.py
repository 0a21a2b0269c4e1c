"""One look at a velocity field before long work: what it answers, and for whom."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bns_jax import conditioning, identity, parallel
from bns_jax.checks import check_velocity
from bns_jax.pytree import on_host
from bns_jax.typing import Array, Sample, VelocityField
from bns_jax.velocity import time_like

_TIMES = (0.25, 0.75, 0.05, 0.5, 0.95)
_TIMES_ALONE = 2
_MIXED = 0.02
_CALLED_AS = (
    "The field is called as vf(t, x, *args): a scalar time, a whole batch x of {}, and "
    "{} conditioning arguments."
)
_LOOKED_AT = 8


def look(
    vf: VelocityField, x0: Sample, args: tuple[Any, ...], mesh: Mesh | None = None
) -> identity.Probe:
    """Asks a field at a few times for a few samples, and for two of them alone.

    Args:
      vf: the field, a pytree that lies on the devices of the mesh.
      x0: samples, leaves (N, ...) of which a few, evenly spaced, are looked at.
      args: conditioning, leaves (N, ...); all of it is checked by what the field
        carries, see `conditioning.check`.
      mesh: the devices.

    Returns:
      The probe of its answers; see `identity.probe`.

    Raises:
      ValueError: if it returns another tree, shape or dtype than that of x, or answers
        differently about a sample that has company, or what the field carries refuses
        the conditioning.
    """
    conditioning.check(vf, args)
    chosen = _chosen(x0)
    few = jax.tree.map(lambda leaf: np.asarray(leaf[chosen]), (x0, args))

    def ask(t: float, rows: list[int]) -> Sample:
        x, some = jax.tree.map(lambda leaf: leaf[rows], few)
        return _answer(vf, t, x, some, mesh)

    answers = []
    for number, t in enumerate(_TIMES):
        together = ask(t, [*range(len(chosen))])
        answers.append(together)
        if number >= _TIMES_ALONE:
            continue
        rows = [_flat(ask(t, [row])) for row in range(min(2, len(chosen)))]
        _check_independent(t, _flat(together)[: len(rows)], np.concatenate(rows))
    return identity.probe(*answers)


def _asked(vf: VelocityField, t: Any, x: Sample, args: tuple[Any, ...]) -> Sample:
    try:
        return _velocity(vf, t, x, args)
    except Exception as error:
        # Of Flax, which is not imported here.
        if type(error).__name__ != "TraceContextError":
            error.add_note(_CALLED_AS.format(_shapes(x), len(args)))
            raise
        raise ValueError(
            "the field mixes its samples or changes with each call: its network "
            "updates its own state, as dropout and batch normalization in training "
            "mode do; switch them off, in Flax NNX by net.eval()"
        ) from error


def _chosen(x0: Sample) -> np.ndarray:
    """A few rows from all over the samples, as conditions differ."""
    count = len(jax.tree.leaves(x0)[0])
    return np.unique(np.linspace(0, count - 1, _LOOKED_AT).astype(int))


def _answer(
    vf: VelocityField, t: float, x: Sample, args: tuple[Any, ...], mesh: Mesh | None
) -> Sample:
    with jax.default_matmul_precision("highest"):
        laid = parallel.replicate((x, args), mesh)
        return jax.tree.map(on_host, _asked(vf, np.float32(t), *laid))


def _shapes(x: Sample) -> str:
    return " and ".join(str(np.shape(leaf)) for leaf in jax.tree.leaves(x))


@jax.jit
def _velocity(vf: VelocityField, t: Array, x: Sample, args: tuple[Any, ...]) -> Sample:
    t = time_like(t, x)
    u = vf(t, x, *args)
    check_velocity(u, x, t)
    return u


def _flat(u: Sample) -> np.ndarray:
    """One sample after another, (N, d) in float64."""
    leaves = [leaf.astype(np.float64) for leaf in jax.tree.leaves(u)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def _check_independent(t: float, together: np.ndarray, alone: np.ndarray) -> None:
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.sqrt(np.mean(alone**2))
        difference = np.sqrt(np.mean((together - alone) ** 2))
    only_alone = np.all(np.isfinite(together)) and not np.all(np.isfinite(alone))
    if only_alone or (np.isfinite(difference) and difference > _MIXED * size):
        raise ValueError(
            f"the field mixes its samples: at t = {t} its answers about two samples "
            f"together and about each alone differ by {difference:.2g} (root mean "
            f"square, of {size:.2g}), expected the same; dropout that is left on and "
            "batch normalization in training mode do that"
        )
