"""Checks of the options that several solvers have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bns_jax import scalars

FEW_STEPS = 15
"""Below so many steps multistep methods fall in order at the end, by default."""


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuses a value that is none of the choices.

    Args:
      name: of the option, for the message.
      value: of it.
      choices: what it may be.

    Raises:
      ValueError: naming them.
    """
    if value not in choices:
        listing = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"{name} must be {listing}, got {value!r:.60}")


def check_order(order: int, highest: int, nfe: int) -> tuple[int, int]:
    """The order and nfe as whole numbers.

    Args:
      order: of the method.
      highest: that it exists for.
      nfe: evaluations, one a step.

    Returns:
      Both as Python's int.

    Raises:
      ValueError: if the method does not have that order, or nfe cannot reach it.
    """
    if isinstance(order, bool) or order not in range(1, highest + 1):
        raise ValueError(f"order must be from 1 to {highest}, got {order}")
    order, nfe = scalars.count("order", order), scalars.nfe(nfe)
    if nfe < order:
        raise ValueError(f"order {order} needs nfe >= {order}, got {nfe}")
    return order, nfe


def check_distinct(times: np.ndarray, repeat_last: bool = True) -> None:
    """Refuses steps without length.

    Args:
      times: of a grid.
      repeat_last: whether the last step may have none.

    Raises:
      ValueError: if another has none.
    """
    lengths = np.diff(times)
    if np.any((lengths[:-1] if repeat_last and len(lengths) > 1 else lengths) == 0):
        raise ValueError(f"this solver needs distinct times, got {times!s:.60}")


def orders_of(
    steps: int,
    order: int,
    lower_order_final: bool | None,
    by_default: bool,
    euler_at_final: bool = False,
) -> list[int]:
    """The highest order that each step of a multistep method may have.

    Args:
      steps: how many.
      order: of the method.
      lower_order_final: whether the order falls by one a step at the end: .. 3, 2, 1.
      by_default: what None stands for.
      euler_at_final: whether the last step is of order 1 in any case.

    Returns:
      One order for each step, from 1.
    """
    falls = by_default if lower_order_final is None else lower_order_final
    orders = [min(order, steps - i) if falls else order for i in range(steps)]
    if euler_at_final:
        orders[-1] = 1
    return orders
