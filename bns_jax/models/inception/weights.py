"""Weights of FID's Inception from the files that pytorch-fid and torch-fidelity use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from bns_jax.models import state_dict
from bns_jax.models.convert import differences, unusable
from bns_jax.models.inception.network import SIDE, Inception

_EPSILON = 1e-3
"""Added to the variance by the network's normalisations."""

_CLASSIFIER = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
"""In the files too, but above the features."""


def convert(tensors: Mapping[str, np.ndarray], source: str = "the mapping") -> Any:
    """The parameters of `Inception` from the tensors of a torch file.

    Args:
      tensors: those of pt_inception-2015-12-05-6726825d.pth (pytorch-fid) or of
        weights-inception-2015-12-05-6726825d.pth (torch-fidelity), by name.
      source: where they came from, for the message.

    Returns:
      Nested dictionaries of float32 arrays.

    Raises:
      ValueError: naming each tensor that is missing, left over, of another shape, or
        of other than finite floating-point numbers.
    """
    shapes = flax.traverse_util.flatten_dict(parameter_shapes())
    layers = sorted({path[:-1] for path in shapes})
    expected = dict(_CLASSIFIER)
    for layer in layers:
        expected |= _layout(layer, shapes[*layer, "kernel"].shape)
    given = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    faults = differences(given, expected) or unusable(given)
    if faults:
        raise ValueError(
            f"{source} does not fit the Inception network of FID{_likeness(given)}: "
            + "; ".join(faults)
        )
    flat: dict[tuple[str, ...], np.ndarray] = {}
    for layer in layers:
        kernel, bias = _folded(*(given[name] for name in _layout(layer)))
        flat |= {(*layer, "kernel"): kernel, (*layer, "bias"): bias}
    return flax.traverse_util.unflatten_dict(flat)


def load(weights: Mapping[str, np.ndarray] | epath.PathLike) -> Any:
    """The parameters of `Inception` from tensors, or a file of them.

    Args:
      weights: tensors as `convert` takes them, or the path of a file that holds them:
        torch's own, .pth, as it is downloaded, or .safetensors. No code of it is run.

    Returns:
      Nested dictionaries of float32 arrays, for `features`.

    Raises:
      ValueError: if the file is missing or damaged, or does not fit.
    """
    if isinstance(weights, Mapping):
        return convert(weights)
    return convert(state_dict.read(weights), str(weights))


def parameter_shapes() -> Any:
    """The parameters' shapes and dtypes.

    Returns:
      Nested dictionaries of `jax.ShapeDtypeStruct`.
    """
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    return jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]


def _layout(
    layer: tuple[str, ...], kernel: tuple[int, ...] = (0, 0, 0, 0)
) -> dict[str, tuple[int, ...]]:
    """The tensors of a convolution and its normalisation, and their shapes."""
    height, width, inputs, outputs = kernel
    prefix = ".".join(layer)
    normalisation = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.conv.weight": (outputs, inputs, height, width)} | {
        f"{prefix}.bn.{name}": (outputs,) for name in normalisation
    }


def _folded(
    kernel: np.ndarray, *normalisation: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A convolution and the normalisation behind it as one kernel and one bias."""
    scale, shift, mean, variance = (part.astype(np.float64) for part in normalisation)
    scale = scale / np.sqrt(variance + _EPSILON)
    folded = kernel.astype(np.float64).transpose(2, 3, 1, 0) * scale
    return folded.astype(np.float32), (shift - mean * scale).astype(np.float32)


def _likeness(given: Mapping[str, np.ndarray]) -> str:
    """What they look like instead, if known."""
    classifier = given.get("fc.weight")
    if classifier is not None and classifier.shape == (1000, 2048):
        return " (they look like torchvision's Inception, whose features differ)"
    return ""
