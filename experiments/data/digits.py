"""The 1,797 handwritten digits, 8 x 8 pixels, that ship inside scikit-learn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Images(NamedTuple):
    """Labelled images.

    Attributes:
      pixels: (count, height, width, channels), float32 in [-1, 1].
      labels: (count,), int32.
    """

    pixels: np.ndarray
    labels: np.ndarray


def load(held_out: int = 297, seed: int = 0) -> tuple[Images, Images]:
    """Reads and splits the digits.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI,
    1998, CC BY 4.0), the test part, as distributed with scikit-learn.

    Args:
      held_out: images that training never sees.
      seed: of the split.

    Returns:
      The training images and the held-out ones.
    """
    # Here, because it takes longer to import than jax, and few programs need it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images / 8.0 - 1.0).astype(np.float32)[..., None]
    labels = digits.target.astype(np.int32)
    order = np.random.default_rng(seed).permutation(len(labels))
    first, last = order[held_out:], order[:held_out]
    return Images(pixels[first], labels[first]), Images(pixels[last], labels[last])
