"""PSNR of what is made of samples, such as the images of latents."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from bns_jax.metrics.psnr import USUAL_RANGE, psnr


def decoded_psnr(
    decode: Callable[[Any], Any] | None, data_range: float
) -> Callable[[Any, Any], jax.Array]:
    """PSNR after decoding, the same object for equal arguments that can be hashed.

    Args:
      decode: decode(x) -> an array with the batch in front; None for x itself.
      data_range: from the least to the largest value of what is decoded.

    Returns:
      metric(x_n, x1) -> (batch,), in dB.
    """
    try:
        return _psnr(decode, data_range)
    except TypeError:  # A decoder that cannot be hashed.
        return _psnr.__wrapped__(decode, data_range)


@functools.cache
def _psnr(decode: Any, data_range: float) -> Callable[[Any, Any], jax.Array]:
    if decode is not None:
        return functools.partial(psnr_of_decoded, decode=decode, data_range=data_range)
    if data_range != USUAL_RANGE:
        return functools.partial(psnr, data_range=data_range)
    return psnr


def psnr_of_decoded(
    x: Any, x1: Any, decode: Callable[[Any], Any], data_range: float
) -> jax.Array:
    """PSNR of decode(x) against decode(x1); see `decoded_psnr`.

    Args:
      x: samples, leaves (batch, ...).
      x1: what they should be, likewise.
      decode: from samples to what is compared.
      data_range: of that.

    Returns:
      (batch,), in dB.
    """
    return psnr(decode(x), decode(x1), data_range=data_range)
