"""What a file says of its network besides the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bns_jax.models import edm_precondition
from bns_jax.models.published import Config
from bns_jax.models.state_dict import Pickled, StateDict


def preconditioning(
    tensors: StateDict, config: Mapping[str, Any], message: str
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
    if not isinstance(tensors, Pickled):
        entries: dict[str, Any] = {"preconditioning": "iddpm"} if "u" in tensors else {}
    else:
        entries = _of_class(tensors, message)
    for name in set(entries) & set(config):
        if entries[name] != config[name]:
            raise ValueError(
                f"{message}: its {name} is {entries[name]!r}, got {config[name]!r}"
            )
    return entries


def _of_class(network: Pickled, message: str) -> dict[str, Any]:
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


def other_heads(tensors: StateDict, config: Config) -> list[str]:
    """The layers of a pickled network that say they have other heads than expected."""
    faults = []
    settings = tensors.settings if isinstance(tensors, Pickled) else {}
    for name, heads in settings.items():
        layer, _, last = name.rpartition(".")
        products = tensors.get(f"{layer}.qkv.weight")
        if last == "num_heads" and heads and products is not None:
            expected = config.heads_of(layer, len(products) // 3)
            if heads != expected:
                faults.append(f"{name}: expected {expected} heads, got {heads}")
    return faults
