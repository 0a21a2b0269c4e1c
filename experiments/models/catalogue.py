"""The models that experiments run on, by name."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bns_jax import schedulers
from bns_jax.models import UNet, UNetConfig, pretrained, weights
from bns_jax.models.published import PUBLISHED
from bns_jax.problem import Draw, Problem
from experiments.data import digits as digits_data
from experiments.job.config import RunConfig
from experiments.models.mixture import Mixture
from experiments.run import session

_SHIPPED = pathlib.Path(__file__).parent / "weights"
_MIXTURE_WIDTH = 0.15


def of(config: RunConfig, guidance: float | None = None, weights: str = "") -> Problem:
    """The model that a configuration names, on its devices.

    Args:
      config: of a run.
      guidance: instead of --guidance.
      weights: instead of the shipped ones if --weights names none.
    """
    scale = config.guidance if guidance is None else guidance
    model = load(config.model, scale, config.weights or weights or None)
    return model.on(session.mesh(config), config.shard_weights)


def load(name: str, guidance: float, path: epath.PathLike | None = None) -> Problem:
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


def digits(guidance: float, path: epath.PathLike | None = None) -> Problem:
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

    return Problem.guided(
        jax.tree_util.Partial(conditional, params),
        jax.tree_util.Partial(unconditional, params),
        guidance,
        scheduler=schedulers.cond_ot(),
        facts=_facts("digits", guidance),
        name="digits 8 x 8",
        draw=_noise_and_labels(config.image_shape, config.num_classes),
    )


def mixture(guidance: float) -> Problem:
    """The exact flow of a mixture of Gaussians around the digits, class-conditional."""
    images, _ = digits_data.load(held_out=0)
    scheduler = schedulers.cond_ot()
    exact = Mixture.around(images.pixels, images.labels, _MIXTURE_WIDTH, scheduler)
    return Problem.guided(
        jax.tree_util.Partial(Mixture.conditional, exact),
        jax.tree_util.Partial(Mixture.unconditional, exact),
        guidance,
        scheduler=scheduler,
        facts=_facts("mixture", guidance) | {"width": _MIXTURE_WIDTH},
        name="mixture around digits",
        draw=_noise_and_labels(images.pixels.shape[1:], int(images.labels.max()) + 1),
    )


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
) -> Problem:
    """A published checkpoint.

    Args:
      name: of `bns_jax.models.published`.
      guidance: scale w; 0 is unguided.
      path: of the weights.
      config: entries of the architecture that differ from the published one.
      dtype: to compute in, "float32" or "bfloat16".
      remat: whether the backward pass recomputes each block of the network.
      labels: classes to draw; all of them if left out.
      guided_channels: guides so many leading channels; all of them if left out.
      zeros: whether zeros stand for weights of no path, which an estimate can do with.

    Raises:
      ValueError: if the weights are missing, unsafe, damaged or of another network, or
        it has no such label, guidance or channels.
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
    _check_labels(name, labels, classes)
    facts = _facts_of(loaded) | {"model": name, "guidance": guidance, "dtype": dtype}
    draw = _noise_and_labels(
        loaded.config.image_shape,
        classes,
        float(loaded.scheduler.sigma(0.0)),
        tuple(labels),
    )
    if guided_channels is not None:
        facts["guided_channels"] = guided_channels
    return Problem(
        loaded.field(guidance, channels=guided_channels),
        loaded.scheduler,
        facts=facts,
        name=name,
        guidance=guidance,
        guided_channels=guided_channels,
        draw=draw,
    )


def _facts_of(loaded: pretrained.Pretrained) -> dict[str, Any]:
    return {
        "scheduler": loaded.origin.schedule,
        "prediction": loaded.origin.prediction,
        "config": json.loads(json.dumps(dataclasses.asdict(loaded.config))),
        "guidance_was_trained": loaded.knows_null,
    }


def _check_labels(name: str, labels: Sequence[int], classes: int) -> None:
    if labels and not classes:
        raise ValueError(f"{name} has no classes, got labels {list(labels)}")
    if not all(0 <= label < classes for label in labels):
        raise ValueError(f"labels must be from 0 to {classes - 1}, got {list(labels)}")


def _noise_and_labels(
    shape: tuple[int, ...],
    num_classes: int,
    std: float = 1.0,
    only: tuple[int, ...] = (),
) -> Draw:
    """Normal noise, and classes where there are any: of all, or of some."""

    def draw(count: int, rng: np.random.Generator) -> tuple[Any, tuple[Any, ...]]:
        noise = (std * rng.normal(size=(count, *shape))).astype(np.float32)
        if not num_classes:
            return noise, ()
        chosen = rng.integers(len(only) or num_classes, size=count)
        labels = np.asarray(only)[chosen] if only else chosen
        return noise, (labels.astype(np.int32),)

    return draw


def _facts(model: str, guidance: float) -> dict[str, Any]:
    """Of a model of velocity prediction on the cond-OT path."""
    return {
        "model": model,
        "scheduler": "cond_ot",
        "prediction": "velocity",
        "guidance": guidance,
    }
