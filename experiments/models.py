"""The models that experiments run on."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bns_jax import schedulers, velocity
from bns_jax.models import UNet, UNetConfig, weights
from experiments.main_job import Model

_SHIPPED = pathlib.Path(__file__).parent / "weights"


def digits(guidance: float, path: epath.PathLike | None = None) -> Model:
    """The flow model of 8 x 8 handwritten digits, class-conditional.

    Args:
      guidance: scale w; 0 is unguided.
      path: of the weights; the shipped ones if left out.

    Raises:
      ValueError: if the file is missing, damaged, or of another network.
    """
    path = path or _SHIPPED / "digits.safetensors"
    params, metadata = weights.load(path)
    config = UNetConfig.from_dict(metadata.get("config", {}))
    network = UNet(config)
    weights.check(params, network.shapes(), path)

    def conditional(params: Any, t: jax.Array, x: jax.Array, label: jax.Array) -> Any:
        return network.apply({"params": params}, t, x, label)

    def unconditional(params: Any, t: jax.Array, x: jax.Array, label: jax.Array) -> Any:
        return conditional(params, t, x, jnp.full_like(label, config.num_classes))

    def draw(count: int, rng: np.random.Generator) -> tuple[Any, tuple[Any]]:
        noise = rng.normal(size=(count, *config.image_shape)).astype(np.float32)
        labels = rng.integers(config.num_classes, size=count).astype(np.int32)
        return noise, (labels,)

    field = velocity.guided(
        jax.tree_util.Partial(conditional, params),
        jax.tree_util.Partial(unconditional, params),
        guidance,
    )
    facts = {
        "model": "digits",
        "scheduler": "cond_ot",
        "prediction": "velocity",
        "guidance": guidance,
    }
    scheduler = schedulers.cond_ot()
    return Model("digits 8 x 8", field, scheduler, draw, guidance, facts)
