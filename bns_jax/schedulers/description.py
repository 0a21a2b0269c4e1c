"""A scheduler as JSON values: its name and its numbers."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np

from bns_jax import identity
from bns_jax.schedulers.base import Scheduler
from bns_jax.schedulers.discrete import DiscreteVP, ZeroTerminalVP
from bns_jax.schedulers.paths import VE, CondOT, Cosine
from bns_jax.schedulers.shifted import Shifted
from bns_jax.schedulers.variance_preserving import VP

_NAMES: dict[type, str] = {
    CondOT: "cond_ot",
    Cosine: "cosine",
    VP: "vp",
    VE: "ve",
    Shifted: "shifted",
    DiscreteVP: "alphas_cumprod",
    ZeroTerminalVP: "alphas_cumprod",
}
_DIGITS = 6


def describe(scheduler: Scheduler) -> dict[str, Any]:
    """What names a scheduler and tells it from others, for people and for files.

    Args:
      scheduler: one of the library, or a dataclass of your own.

    Returns:
      JSON values: the name, such as "vp" (of your own, that of its class), and the
      fields of the dataclass by theirs. A scheduler within it is described likewise. A
      table is told by its `length` and by the `sha256` of its numbers, which are
      rounded to 6 digits, since machines differ in the last ones of a logarithm.

    Raises:
      TypeError: if it is no scheduler.
    """
    if not isinstance(scheduler, Scheduler):
        raise TypeError(f"expected a scheduler, got {scheduler!r:.100}")
    fields: Any = dataclasses.is_dataclass(scheduler) and dataclasses.fields(scheduler)
    numbers = {f.name: _value(getattr(scheduler, f.name)) for f in fields or ()}
    name = _NAMES.get(type(scheduler), type(scheduler).__qualname__)
    return {"name": name} | numbers


def _value(value: Any) -> Any:
    """One field as JSON values."""
    if isinstance(value, Scheduler):
        return describe(value)
    if value is None or isinstance(value, str):
        return value
    numbers = np.asarray(value)
    if numbers.dtype.kind not in "biuf":
        return identity.describe(value)
    if numbers.ndim == 0:
        return numbers.item() if np.isfinite(numbers) else str(value)
    text = ",".join(f"{number:.{_DIGITS}g}" for number in numbers.flat)
    return {
        "length": numbers.size,
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
