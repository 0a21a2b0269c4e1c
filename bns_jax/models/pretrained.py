"""From a weights file of others to a velocity field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from bns_jax import notices, parallel, velocity
from bns_jax.models import (
    convert,
    edm,
    labels,
    published,
    recognise,
    state_dict,
    told,
)
from bns_jax.models.layers import WIDE
from bns_jax.models.network import Network
from bns_jax.models.published import NetworkConfig, Published
from bns_jax.models.tensors import StateDict, Tensors
from bns_jax.schedulers import DiscreteVP, Scheduler
from bns_jax.typing import VelocityField

_MOST_FAULTS = 20


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network with the weights of a published checkpoint.

    Attributes:
      origin: what it was trained as.
      network: called as network.apply({"params": params}, told, x, label).
      params: its weights, float32.
      scheduler: the path to sample on.
    """

    origin: Published
    network: Network
    params: Any
    scheduler: Scheduler

    @property
    def config(self) -> NetworkConfig:
        """The architecture."""
        return self.origin.config

    @property
    def knows_null(self) -> bool:
        """Whether it was trained without labels too, as guidance supposes."""
        config = self.config
        return config.num_classes > 0 and getattr(config, "null_label", False)

    def field(
        self, guidance: float = 0.0, *, channels: int | None = None
    ) -> VelocityField:
        """The velocity field, guided by the scale w; its weights are its leaves.

        It is called as field(t, x, label) where there are classes, and field(t, x)
        where not. `pairs`, `fit`, `evaluate` and `greedy` check all labels before they
        start; inside of jit a label that is out of range gives nan.

        Args:
          guidance: w, as in `velocity.guided`; others call 1 + w the guidance scale.
          channels: guides so many leading channels, the rest stays conditional; all of
            them if left out. The published figures of DiT and SiT, their FIDs among
            them, guide 3 of the 4 channels of the latents: give 3 to compare with
            those.

        Returns:
          The field, on the path of `scheduler`.

        Raises:
          ValueError: if there are no classes to be guided by, or not so many channels.
        """
        own = self.config.channels
        if channels is not None and not 1 <= channels <= own:
            raise ValueError(
                f"channels to guide must be from 1 to {own}, those of "
                f"{self.origin.file}, got {channels}"
            )
        if guidance and not self.config.num_classes:
            raise ValueError(
                f"guidance needs a class-conditional network, got {guidance} for "
                f"{self.origin.file}"
            )
        fields = self._field(False), self._field(True)
        return velocity.guided(*fields, guidance, channels=channels)

    def _field(self, unconditional: bool) -> VelocityField:
        prediction = _Prediction(self.network, self.scheduler, unconditional)
        fn = jax.tree_util.Partial(prediction, self.params)
        if self.origin.prediction == "epsilon":
            return velocity.from_epsilon(fn, self.scheduler)
        if self.origin.prediction == "denoiser":
            return velocity.from_denoiser(fn, self.scheduler)
        return fn


@dataclasses.dataclass(frozen=True)
class _Prediction:
    """What a network predicts, without a learned variance."""

    network: Any
    scheduler: Scheduler
    unconditional: bool

    def __call__(self, params: Any, t: Any, x: jax.Array, *label: Any) -> jax.Array:
        config = self.network.config
        if isinstance(self.scheduler, DiscreteVP):
            t = self.scheduler.timestep(t)
        if config.num_classes:
            given = labels.only(label)
            null = jnp.full_like(given, config.num_classes)
            label = (null if self.unconditional else given,)
        out = self.network.apply({"params": params}, t, x, *label)
        return out[..., : config.channels]

    def check_args(self, args: tuple[Any, ...]) -> None:
        """Checks the labels of all samples; see `conditioning.check`."""
        self.network.check_args(args)


def load(
    name: str,
    path: epath.PathLike,
    *,
    config: Mapping[str, Any] | None = None,
    dtype: Any = WIDE,
    remat: bool = False,
    mesh: Mesh | None = None,
) -> Pretrained:
    """Reads a published checkpoint, or a relative of it.

    Args:
      name: of `published.PUBLISHED`: the architecture and what it was trained on.
      path: the weights: a file of torch.save, EDM's pickle, or safetensors with the
        same names.
      config: entries of the architecture that differ from the published one. A pickle
        of EDM says itself how its network is preconditioned.
      dtype: of the products inside, float32 or bfloat16.
      remat: whether the backward pass recomputes each block.
      mesh: devices to lay the weights over, along its first axis.

    Returns:
      The network with its weights on the devices.

    Raises:
      ValueError: if the file cannot be read safely (see `state_dict.read`), or does
        not fit; says which tensors, and what it looks like instead.

    Warns:
      UserWarning: if EDM's tensors come alone, and their preconditioning is assumed.
    """
    origin = published.look_up(name).changed(config or {})
    tensors = state_dict.read(path)
    message = f"{path} does not fit {name}"
    if isinstance(origin.config, edm.EDMConfig):
        entries = told.preconditioning(tensors, config or {}, message)
        if not entries and not {"preconditioning", "sigma_data"} & set(config or {}):
            _warn_of_assumed(path, origin.config)
        origin = origin.changed(entries)
    network = origin.network(dtype, remat)
    shapes = network.shapes()
    used = _checked(tensors, shapes, origin, message)
    params = convert.to_flax(used, shapes)
    # Once and for all: as NumPy arrays they would travel at every call.
    params = parallel.fsdp(params, mesh) if mesh else jax.device_put(params)
    return Pretrained(origin, network, params, origin.scheduler)


def without_weights(
    name: str,
    *,
    config: Mapping[str, Any] | None = None,
    dtype: Any = WIDE,
    remat: bool = False,
) -> Pretrained:
    """A published architecture with zeros in place of its weights.

    The shapes are known without a file, and they are all that time and memory depend
    on; what it answers means nothing.

    Args:
      name: of `published.PUBLISHED`; the rest as in `load`.
      config: entries of the architecture that differ from the published one.
      dtype: of the products inside, float32 or bfloat16.
      remat: whether the backward pass recomputes each block.

    Returns:
      The network with zeros, as `load` gives it with weights.

    Raises:
      ValueError: if there is no such name or entry.
    """
    origin = published.look_up(name).changed(config or {})
    network = origin.network(dtype, remat)
    params = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), network.shapes()
    )
    return Pretrained(origin, network, params, origin.scheduler)


def _checked(
    tensors: Tensors, shapes: Any, origin: Published, message: str
) -> StateDict:
    """The tensors that the network uses.

    Raises:
      ValueError: naming those that are missing, left over or of another shape.
    """
    expected = convert.layout(shapes)
    tensors = tensors.fitting(expected)
    unused = {}
    if isinstance(origin.config, edm.EDMConfig):
        unused = edm.unused(origin.config, expected)
    used = {k: v for k, v in tensors.items() if k not in unused}
    faults = [
        *_tensor_faults(used, tensors.unread, expected),
        *convert.misfits(tensors, unused),
        *told.other_heads(tensors, origin.config),
        *told.other_training(tensors, origin),
    ]
    if faults:
        more = len(faults) - _MOST_FAULTS
        listed = faults[:_MOST_FAULTS] + ([f"and {more} more"] if more > 0 else [])
        raise ValueError(
            f"{message}; it looks like {recognise.looks_like(used)}: "
            + "; ".join(listed)
        )
    return used


def _tensor_faults(
    used: StateDict, unread: Mapping[str, str], expected: Mapping[str, tuple[int, ...]]
) -> list[str]:
    """What keeps the tensors of a file from being the weights of a network."""
    unreadable = [
        f"{name} is a {kind}, which is not read"
        for name, kind in unread.items()
        if name in expected
    ]
    readable = {k: v for k, v in expected.items() if k not in unread}
    weights = {k: v for k, v in used.items() if k in expected}
    return [
        *unreadable,
        *convert.differences(used, readable),
        *convert.unusable(weights),
    ]


def _warn_of_assumed(path: epath.PathLike, config: edm.EDMConfig) -> None:
    notices.warn(
        f"{path} does not say how its network is preconditioned; assumed: "
        f'"{config.preconditioning}" with sigma_data {config.sigma_data}. To say it, '
        "give these two entries of the configuration",
    )
