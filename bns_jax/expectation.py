"""Whether a solver is for the problem at hand."""

from __future__ import annotations

from typing import Any

from bns_jax import identity
from bns_jax.purpose import PLAIN, Purpose, Scale

_ROUNDING = 1e-6


def check(there: Purpose, here: Purpose, what: str, advice: str) -> list[str]:
    """Checks that a solver is for the problem at hand.

    Compared is what both state, but for `measured`. A guidance scale agrees with a
    range that holds it, and a range with a wider one.

    Args:
      there: what the solver is for.
      here: the problem at hand.
      what: what is refused, for the message.
      advice: what the user can do.

    Returns:
      The names of what is stated here, and not there: that is not compared.

    Raises:
      ValueError: naming every entry that differs.
    """
    found, asked = _stated(there), _stated(here)
    both = [name for name in asked if name in found]
    if "guidance" in both and _holds(found["guidance"], asked["guidance"]):
        asked["guidance"] = found["guidance"]
    if both:
        there_too, here_too = ({k: side[k] for k in both} for side in (found, asked))
        identity.check_same(there_too, here_too, what, advice)
    missing = [name.partition(".")[0] for name in asked if name not in found]
    return list(dict.fromkeys(missing))


def _stated(purpose: Purpose) -> dict[str, Any]:
    """All that is stated and compared, as one flat record."""
    record = {name: getattr(purpose, name) for name in (*PLAIN, "guidance")}
    entries = record.pop("identity")
    if purpose.guidance:
        record["guided_channels"] = purpose.guided_channels or "all"
    stated = {name: value for name, value in record.items() if value is not None}
    return stated | {f"identity.{name}": value for name, value in entries.items()}


def _holds(outer: Scale, inner: Scale) -> bool:
    (low, high), (least, most) = map(_ends, (outer, inner))
    slack = _ROUNDING * max(abs(low), abs(high))
    return low - slack <= least and most <= high + slack


def _ends(scale: Scale) -> tuple[float, float]:
    return scale if isinstance(scale, tuple) else (scale, scale)
