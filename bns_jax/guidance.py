"""Classifier-free guidance: two velocity fields as one (Ho and Salimans, 2022)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from bns_jax import conditioning, scalars
from bns_jax.checks import check_byte_order, check_floating, check_like
from bns_jax.pytree import as_pytree
from bns_jax.typing import Array, Sample, Time, VelocityField

if TYPE_CHECKING:
    from bns_jax.schedulers import Scheduler


# Without equality it is hashed as one object, so that jit takes it as a function.
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GuidedVelocity:
    """Classifier-free guidance, u = (1 + w) u_cond - w u_uncond.

    Attributes:
      cond: the conditional field.
      uncond: the unconditional one.
      scale: w; see `guided`. None if the last argument of the field is w.
      channels: how many entries of the last axis are guided; all of them if None.
    """

    cond: VelocityField
    uncond: VelocityField
    scale: Array | None
    channels: int | None = dataclasses.field(default=None, metadata={"static": True})

    def __call__(self, t: Time, x: Sample, *args: Any) -> Sample:
        """The guided velocity, like x.

        Args:
          t: scalar time in [0, 1], from noise to data.
          x: a batch of samples, a pytree of floating-point arrays.
          *args: conditioning of both fields; then w, where `scale` is None.

        Returns:
          (1 + w) u_cond - w u_uncond, of the shape and dtype of x.

        Raises:
          ValueError: if the scale does not fit x or is missing, or a field returns
            another tree or shape than that of x.
        """
        check_floating("x", x)
        w, args = self._scale_and_rest(args)
        cond, uncond = self.cond(t, x, *args), self.uncond(t, x, *args)
        check_like(cond, x, "the conditional field")
        check_like(uncond, x, "the unconditional field")
        return self._guide(w, cond, uncond)

    def check_args(self, args: tuple[Any, ...]) -> None:
        """Lets both fields check the conditioning; see `conditioning.check`.

        Args:
          args: the conditioning of all samples, concrete; the scale last, where it is
            one of them.

        Raises:
          ValueError: if a field refuses it, or there is no scale.
        """
        _, args = self._scale_and_rest(args)
        for vf in (self.cond, self.uncond):
            conditioning.check(vf, args)

    @property
    def scheduler(self) -> Scheduler | None:
        """The one of both fields; None unless both have it and `ends`."""
        schedulers = [getattr(vf, "scheduler", None) for vf in (self.cond, self.uncond)]
        return schedulers[0] if schedulers[0] == schedulers[1] else None

    @property
    def prediction(self) -> str | None:
        """What the network of the conditional field predicts, where it says so."""
        return getattr(self.cond, "prediction", None)

    @property
    def scales(self) -> tuple[float, float] | None:
        """The least and the largest scale; None where it is an argument, or traced."""
        w = self.scale
        if w is None or isinstance(w, jax.core.Tracer):
            return None
        return float(np.min(w)), float(np.max(w))

    @property
    def number(self) -> float | None:
        """The scale, where it is one number for all samples."""
        ends = None if getattr(self.scale, "ndim", 0) else self.scales
        return ends[0] if ends else None

    def ends(self, t: Time, x: Sample, *args: Any) -> Any:
        """The guided ends: they combine as the velocities do, both being linear.

        Args:
          t: scalar time in [0, 1].
          x: a batch of samples, a pytree of arrays.
          *args: conditioning, as of a call.

        Returns:
          `velocity.Ends` of the guided model.

        Raises:
          ValueError: if the scale does not fit x, or is missing.
        """
        w, args = self._scale_and_rest(args)
        cond, uncond = self.cond.ends(t, x, *args), self.uncond.ends(t, x, *args)  # type: ignore[attr-defined]
        return self._guide(w, cond, uncond)

    def _scale_and_rest(self, args: tuple[Any, ...]) -> tuple[Array, tuple[Any, ...]]:
        if self.scale is not None:
            return self.scale, args
        if not args:
            raise ValueError(
                "the last argument of this field is its guidance scale, got none"
            )
        return args[-1], args[:-1]

    def _guide(self, scale: Array, cond: Any, uncond: Any) -> Any:
        def combine(cond: Array, uncond: Array) -> Array:
            w = _per_sample(scale, cond)
            return _leading((1 + w) * cond - w * uncond, cond, self.channels)

        return jax.tree.map(combine, cond, uncond)


def guided(
    cond: VelocityField,
    uncond: VelocityField,
    scale: float | Array | None,
    *,
    channels: int | None = None,
) -> VelocityField:
    """Classifier-free guidance, u = (1 + scale) u_cond - scale u_uncond.

    Args:
      cond: called as cond(t, x, *args).
      uncond: called with the same arguments, of which it ignores the condition.
      scale: w; 0 is unguided, and calls `uncond` not at all where it is a number. Of
        shape (B,) it is per sample; otherwise it has the rank of x and broadcasts to
        it. None makes it the last argument of the field, and so a part of the
        conditioning in `pairs` and `fit`. Others call 1 + w the guidance scale.
      channels: guides so many entries of the last axis, the rest stays conditional;
        all of them if left out. The published figures of DiT and SiT guide 3 of the 4
        channels of their latents.

    Returns:
      The guided field; `cond` itself where the scale is the number 0.

    Raises:
      ValueError: if the scale is no real number or not finite, or channels is not
        positive; from the field, if the scale does not fit x or a field returns
        another shape than that of x.
    """
    if channels is not None:
        channels = scalars.count("channels", channels)
    if not (scale is None or isinstance(scale, jax.core.Tracer)):
        scale = _check_scale(scale)
        if np.ndim(scale) == 0 and scale == 0:
            return cond
    return GuidedVelocity(as_pytree(cond), as_pytree(uncond), scale, channels)


def _check_scale(scale: Any) -> Array:
    """A concrete guidance scale as an array."""
    values = np.asarray(scale)
    if not (np.issubdtype(values.dtype, np.number) and np.isrealobj(values)):
        raise ValueError(f"the guidance scale must be a real number, got {scale!r:.60}")
    if not np.all(np.isfinite(values)):
        raise ValueError(f"the guidance scale must be finite, got {scale!r:.60}")
    is_array = isinstance(scale, jax.Array | np.ndarray)
    return scale if is_array else values.astype(np.float64)


def with_scale_as_argument(
    vf: VelocityField, count: int
) -> tuple[VelocityField, tuple[np.ndarray, ...]]:
    """A guided field of a scale per sample as one whose last argument is the scale.

    Who calls a field with other batches than all samples at once needs it so.

    Args:
      vf: any field.
      count: samples that there are.

    Returns:
      The field and what to add to its arguments: one array with leading axis `count`,
      or nothing for other fields.

    Raises:
      ValueError: if there are other scales than samples.
    """
    if not isinstance(vf, GuidedVelocity) or vf.scale is None or vf.scale.ndim == 0:
        return vf, ()
    scale = np.asarray(vf.scale)
    if scale.ndim > 1 and len(scale) == 1:
        scale = np.repeat(scale, count, axis=0)
    if len(scale) != count:
        raise ValueError(
            f"the guidance scale must be one number or one per sample, expected shape "
            f"() or ({count}, ...), got {scale.shape}"
        )
    return dataclasses.replace(vf, scale=None), (scale,)


def _leading(guided: Array, cond: Array, channels: int | None) -> Array:
    """The guided leading channels of the last axis, the conditional ones behind."""
    if channels is None:
        return guided
    if channels > cond.shape[-1]:
        raise ValueError(
            f"guidance of {channels} channels needs as many in the last axis, got "
            f"shape {cond.shape}"
        )
    parts = guided[..., :channels], cond[..., channels:]
    return jnp.concatenate(parts, axis=-1)


def _per_sample(scale: Array, x: Array) -> Array:
    """A guidance scale in the dtype and with the axes of x."""
    check_byte_order("the guidance scale", scale)
    if jnp.issubdtype(jnp.result_type(scale), jnp.complexfloating):
        raise ValueError("the guidance scale must be a real number, got complex ones")
    w = jnp.asarray(scale, x.dtype)
    if w.ndim == 1 and w.shape == x.shape[:1]:
        w = w.reshape(-1, *(1,) * (x.ndim - 1))
    fits = w.ndim in (0, x.ndim) and all(
        size in (1, whole) for size, whole in zip(w.shape, x.shape, strict=False)
    )
    if not fits:
        raise ValueError(
            "the guidance scale must be one number, one per sample of the batch, or an "
            f"array of the rank of x that broadcasts to it: expected shape (), "
            f"{x.shape[:1]} or one that fits {x.shape}, got {w.shape}; where batches "
            "are drawn from many samples, let it be an argument of the field: "
            "velocity.guided(cond, uncond, None)(t, x, label, w)"
        )
    return w
