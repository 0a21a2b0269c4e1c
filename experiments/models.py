"""The models that experiments run on, by name."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bns_jax import schedulers, velocity
from bns_jax.models import UNet, UNetConfig, weights
from bns_jax.schedulers import Scheduler
from bns_jax.typing import Sample, VelocityField
from experiments.data import digits as digits_data
from experiments.mixture import Mixture

_SHIPPED = pathlib.Path(__file__).parent / "weights"
_MIXTURE_WIDTH = 0.15


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
    """

    name: str
    field: VelocityField
    scheduler: Scheduler
    draw: Callable[[int, np.random.Generator], tuple[Sample, tuple[Any, ...]]]
    guidance: float
    facts: dict[str, Any]

    @property
    def title(self) -> str:
        """For plots."""
        return f"{self.name}, guidance {self.guidance:g}"

    @property
    def network_calls(self) -> int:
        """Network evaluations per call of the field: two under guidance."""
        return 1 if self.guidance == 0 else 2


def load(name: str, guidance: float, path: epath.PathLike | None = None) -> Model:
    """A model by its name.

    Args:
      name: "digits" or "mixture".
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
    return digits(guidance, path)


def digits(guidance: float, path: epath.PathLike | None = None) -> Model:
    """The flow model of 8 x 8 handwritten digits, class-conditional; see `load`."""
    path = path or _SHIPPED / "digits.safetensors"
    params, metadata = weights.load(path)
    config = UNetConfig.from_dict(metadata.get("config", {}))
    network = UNet(config)
    weights.check(params, network.shapes(), path)

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


def _noise_and_labels(
    shape: tuple[int, ...], num_classes: int
) -> Callable[[int, np.random.Generator], tuple[Sample, tuple[Any, ...]]]:
    def draw(count: int, rng: np.random.Generator) -> tuple[Any, tuple[Any]]:
        noise = rng.normal(size=(count, *shape)).astype(np.float32)
        return noise, (rng.integers(num_classes, size=count).astype(np.int32),)

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
