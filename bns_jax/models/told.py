"""What a file says of its network besides the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bns_jax.models import edm_precondition
from bns_jax.models.dit import DiTConfig
from bns_jax.models.published import NetworkConfig, Published
from bns_jax.models.tensors import Tensors


def preconditioning(
    tensors: Tensors, config: Mapping[str, Any], message: str
) -> dict[str, Any]:
    """The entries of an EDM network's configuration that a file tells.

    Tensors alone tell nothing of them, save iDDPM's noise levels.

    Args:
      tensors: of the file.
      config: the entries that the user gives.
      message: how an error begins.

    Returns:
      "preconditioning", and "sigma_data" where it has one; nothing if the file does not
      say them.

    Raises:
      ValueError: if they contradict those given, or are unknown here.
    """
    has_levels = any(name.rpartition(".")[2] == "u" for name in tensors)
    entries: dict[str, Any] = {"preconditioning": "iddpm"} if has_levels else {}
    if tensors.kind:
        entries = _of_class(tensors, message)
    for name in set(entries) & set(config):
        if entries[name] != config[name]:
            raise ValueError(
                f"{message}: its {name} is {entries[name]!r:.60}, got "
                f"{config[name]!r:.60}"
            )
    return entries


def _of_class(network: Tensors, message: str) -> dict[str, Any]:
    kind = network.kind.rpartition(".")[2]
    if kind not in edm_precondition.CLASSES:
        known = ", ".join(edm_precondition.CLASSES)
        raise ValueError(f"{message}: expected one of {known}, got a {kind}")
    name = edm_precondition.CLASSES[kind]
    for constant, value in edm_precondition.CONSTANTS[name].items():
        got = network.settings.get(constant)
        if got != value:
            raise ValueError(
                f"{message}: expected a {kind} with {constant} = {value}, got {got}"
            )
    if name != "edm":
        return {"preconditioning": name}
    sigma_data = network.settings.get("sigma_data")
    if not isinstance(sigma_data, int | float):
        raise ValueError(f"{message}: an {kind} without a sigma_data")
    return {"preconditioning": name, "sigma_data": float(sigma_data)}


def other_heads(tensors: Tensors, config: NetworkConfig) -> list[str]:
    """The layers of a pickled network that say they have other heads than expected.

    Args:
      tensors: of the file.
      config: the architecture.

    Returns:
      One line for each.
    """
    faults = []
    for name, heads in tensors.settings.items():
        layer, _, last = name.rpartition(".")
        products = tensors.get(f"{layer}.qkv.weight")
        if last == "num_heads" and heads and products is not None:
            expected = config.heads_of(layer, len(products) // 3)
            if heads != expected:
                faults.append(f"{name}: expected {expected} heads, got {heads}")
    return faults


_HEADS = {"S": 6, "B": 12, "L": 16, "XL": 16}
"""Of the sizes of DiT and SiT, whose weights do not show them."""


def other_training(tensors: Tensors, origin: Published) -> list[str]:
    """What the training scripts of DiT and SiT say that they did differently.

    A network of SiT may have been trained on another path, or to predict another
    thing; its tensors are of the same shapes.

    Args:
      tensors: of the file.
      origin: the checkpoint that it should be.

    Returns:
      One line for each.
    """
    said = tensors.arguments
    if not isinstance(origin.config, DiTConfig) or "model" not in said:
        return []
    expected: dict[str, Any] = {}
    if origin.schedule == "flow":
        expected |= {"path_type": "Linear", "prediction": "velocity"}
    elif "path_type" in said:
        expected["path_type"] = None
    faults = [
        f"trained with {name} {said[name]!r}, expected {value!r}"
        for name, value in expected.items()
        if said.get(name, value) != value
    ]
    size = str(said["model"]).partition("-")[2].partition("/")[0]
    if _HEADS.get(size, origin.config.heads) != origin.config.heads:
        faults.append(
            f"a {said['model']} has {_HEADS[size]} heads, got {origin.config.heads}"
        )
    return faults
