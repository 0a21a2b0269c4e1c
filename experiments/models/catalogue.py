"""The models that experiments run on, by name."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from bns_jax import metrics, parallel, schedulers, velocity
from bns_jax.distill import Metric, Optimizer
from bns_jax.models import UNet, UNetConfig, pretrained, weights
from bns_jax.models.published import PUBLISHED
from bns_jax.problem import Problem
from bns_jax.purpose import Measured, Purpose
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Sample, VelocityField
from experiments.data import digits as digits_data
from experiments.job.config import RunConfig
from experiments.models.mixture import Mixture
from experiments.run import session

_SHIPPED = pathlib.Path(__file__).parent / "weights"
_MIXTURE_WIDTH = 0.15
_CACHED_PAIRS = 26
_USUAL_RANGE = 2.0


@dataclasses.dataclass(frozen=True)
class Model:
    """A model to sample from.

    Attributes:
      name: for titles and files.
      field: its guided velocity field.
      scheduler: the path that it was trained on.
      draw: draw(count, rng) -> (x0, args): noise and conditioning.
      guidance: the scale w.
      facts: JSON values that tell it from other models.
      mesh: the devices that batches are laid over; None for one.
      data_range: from the least to the largest value that its data take, the peak of
        every PSNR; 2 for data in [-1, 1].
    """

    name: str
    field: VelocityField
    scheduler: Scheduler
    draw: Callable[[int, np.random.Generator], tuple[Sample, tuple[Any, ...]]]
    guidance: float
    facts: dict[str, Any]
    mesh: Mesh | None = None
    data_range: float = _USUAL_RANGE

    def on(self, mesh: Mesh | None, shard_weights: bool = False) -> Model:
        """The same model on a mesh; weights that lie there already stay as they do.

        Args:
          mesh: the devices; None for one.
          shard_weights: lays large weights over them instead of on each.
        """
        lay = parallel.fsdp if shard_weights else parallel.place
        return dataclasses.replace(self, field=lay(self.field, mesh), mesh=mesh)

    def cached(self, optimizer: Optimizer, pairs: int) -> Optimizer:
        """The optimizer with microbatches that stay in a CPU's cache.

        Args:
          optimizer: whose own microbatch is kept.
          pairs: to train on.

        Returns:
          The same on other hardware, and where the batch does not divide.
        """
        size = _CACHED_PAIRS * parallel.batch_devices(self.mesh)
        fits = optimizer.batch_of(pairs) % size == 0
        if optimizer.microbatch or not fits or jax.default_backend() != "cpu":
            return optimizer
        return optimizer.replace(microbatch=size)

    def purpose(
        self, of: Mapping[str, Any], measured: Measured | None = None
    ) -> Purpose:
        """What a solver that was made for it is for.

        Args:
          of: the identity of what was made; the entries of the field are taken.
          measured: what the solver reaches.
        """
        of_field = {key: value for key, value in of.items() if key.startswith("field")}
        return Purpose(
            scheduler=self.scheduler,
            prediction=self.facts.get("prediction"),
            guidance=self.guidance,
            guided_channels=self.facts.get("guided_channels"),
            data_range=self.data_range,
            identity={"model": self.facts.get("model", self.name), **of_field},
            measured=measured,
        )

    @property
    def metric(self) -> Metric:
        """PSNR in the range of its data: the same object for the same range."""
        return _psnr(self.data_range)

    @property
    def problem(self) -> Problem:
        """What the library knows of it."""
        return Problem(self.field, self.scheduler, self.mesh, self.facts)

    @property
    def title(self) -> str:
        """For plots."""
        return f"{self.name}, guidance {self.guidance:g}"

    @property
    def network_calls(self) -> int:
        """Network evaluations per call of the field: two under guidance."""
        return 1 if self.guidance == 0 else 2


@functools.cache
def _psnr(data_range: float) -> Metric:
    if data_range == _USUAL_RANGE:
        return metrics.psnr
    return functools.partial(metrics.psnr, data_range=data_range)


def of(config: RunConfig, guidance: float | None = None, weights: str = "") -> Model:
    """The model that a configuration names, on its devices.

    Args:
      config: of a run.
      guidance: instead of --guidance.
      weights: instead of the shipped ones if --weights names none.
    """
    scale = config.guidance if guidance is None else guidance
    model = load(config.model, scale, config.weights or weights or None)
    return model.on(session.mesh(config), config.shard_weights)


def load(name: str, guidance: float, path: epath.PathLike | None = None) -> Model:
    """A model by its name.

    Args:
      name: "digits", "mixture" or a published checkpoint, see `checkpoint`.
      guidance: scale w; 0 is unguided.
      path: of the weights; the shipped ones if left out.

    Raises:
      ValueError: if the weights are missing, damaged, of another network, or given
        to a model that has none.
    """
    if name == "mixture":
        if path:
            raise ValueError(f"the mixture has no weights, got {path}")
        return mixture(guidance)
    if name in PUBLISHED:
        return checkpoint(name, guidance, path)
    return digits(guidance, path)


def digits(guidance: float, path: epath.PathLike | None = None) -> Model:
    """The flow model of 8 x 8 handwritten digits, class-conditional; see `load`."""
    path = path or _SHIPPED / "digits.safetensors"
    params, metadata = weights.load(path)
    config = UNetConfig.from_dict(metadata.get("config", {}))
    network = UNet(config)
    weights.check(params, network.shapes(), path)

    # Jitted, because the programs of all solvers then share one trace of it.
    @jax.jit
    def conditional(params: Any, t: jax.Array, x: jax.Array, label: jax.Array) -> Any:
        return network.apply({"params": params}, t, x, label)

    def unconditional(params: Any, t: jax.Array, x: jax.Array, label: jax.Array) -> Any:
        return conditional(params, t, x, jnp.full_like(label, config.num_classes))

    field = velocity.guided(
        jax.tree_util.Partial(conditional, params),
        jax.tree_util.Partial(unconditional, params),
        guidance,
    )
    draw = _noise_and_labels(config.image_shape, config.num_classes)
    return _cond_ot("digits", "digits 8 x 8", field, draw, guidance)


def mixture(guidance: float) -> Model:
    """The exact flow of a mixture of Gaussians around the digits, class-conditional."""
    images, _ = digits_data.load(held_out=0)
    scheduler = schedulers.cond_ot()
    exact = Mixture.around(images.pixels, images.labels, _MIXTURE_WIDTH, scheduler)
    field = velocity.guided(
        jax.tree_util.Partial(Mixture.conditional, exact),
        jax.tree_util.Partial(Mixture.unconditional, exact),
        guidance,
    )
    draw = _noise_and_labels(images.pixels.shape[1:], int(images.labels.max()) + 1)
    model = _cond_ot("mixture", "mixture around digits", field, draw, guidance)
    return dataclasses.replace(model, facts=model.facts | {"width": _MIXTURE_WIDTH})


def checkpoint(
    name: str,
    guidance: float,
    path: epath.PathLike | None,
    *,
    config: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    remat: bool = False,
    labels: Sequence[int] = (),
    guided_channels: int | None = None,
    zeros: bool = False,
) -> Model:
    """A published checkpoint.

    Args:
      name: of `bns_jax.models.published`.
      guidance: scale w; 0 is unguided.
      path: of the weights.
      config: entries of the architecture that differ from the published one.
      dtype: to compute in, "float32" or "bfloat16".
      remat: whether the backward pass recomputes each block of the network.
      labels: classes to draw; all of them if left out.
      guided_channels: guides so many leading channels; all of them if left out. The
        published figures of DiT and SiT guide 3 of 4.
      zeros: whether zeros stand for the weights where there is no path, as an estimate
        of time and memory needs no more.

    Raises:
      ValueError: if the weights are missing, unsafe, damaged or of another network, a
        label is out of range, guidance is asked of a network without classes, or there
        are not so many channels.
    """
    options: dict[str, Any] = {"dtype": jnp.dtype(dtype), "remat": remat}
    if path:
        loaded = pretrained.load(name, path, config=config, **options)
    elif zeros:
        loaded = pretrained.without_weights(name, config=config, **options)
    else:
        raise ValueError(
            f"--model={name} needs --weights, the path of {PUBLISHED[name].file}"
        )
    classes = loaded.config.num_classes
    if labels and not all(0 <= label < classes for label in labels):
        raise ValueError(
            f"labels must be from 0 to {classes - 1}, got {list(labels)}"
            if classes
            else f"{name} has no classes, got labels {list(labels)}"
        )
    facts = {
        "model": name,
        "scheduler": loaded.origin.schedule,
        "prediction": loaded.origin.prediction,
        "guidance": guidance,
        "config": json.loads(json.dumps(dataclasses.asdict(loaded.config))),
        "dtype": dtype,
        "guidance_was_trained": loaded.knows_null,
    }
    draw = _noise_and_labels(
        loaded.config.image_shape,
        classes,
        float(loaded.scheduler.sigma(0.0)),
        tuple(labels),
    )
    if guided_channels is not None:
        facts["guided_channels"] = guided_channels
    field = loaded.field(guidance, channels=guided_channels)
    return Model(name, field, loaded.scheduler, draw, guidance, facts)


def _noise_and_labels(
    shape: tuple[int, ...],
    num_classes: int,
    std: float = 1.0,
    only: tuple[int, ...] = (),
) -> Callable[[int, np.random.Generator], tuple[Sample, tuple[Any, ...]]]:
    """Normal noise, and classes where there are any: of all, or of some."""

    def draw(count: int, rng: np.random.Generator) -> tuple[Any, tuple[Any, ...]]:
        noise = (std * rng.normal(size=(count, *shape))).astype(np.float32)
        if not num_classes:
            return noise, ()
        chosen = rng.integers(len(only) or num_classes, size=count)
        labels = np.asarray(only)[chosen] if only else chosen
        return noise, (labels.astype(np.int32),)

    return draw


def _cond_ot(
    key: str, name: str, field: VelocityField, draw: Any, guidance: float
) -> Model:
    """A model of velocity prediction on the cond-OT path."""
    facts = {
        "model": key,
        "scheduler": "cond_ot",
        "prediction": "velocity",
        "guidance": guidance,
    }
    return Model(name, field, schedulers.cond_ot(), draw, guidance, facts)
