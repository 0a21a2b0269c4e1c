"""What the published networks are alike in: what they are called with, and how."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bns_jax.models import labels
from bns_jax.models.layers import WIDE


class Network(nn.Module):
    """A network that is called with a time, images and labels.

    Attributes:
      config: the architecture.
      dtype: of its large products, float32 or bfloat16.
      remat: whether to recompute each block in the backward pass and keep only what
        goes from one block to the next.
    """

    config: Any
    dtype: Any = WIDE
    remat: bool = False

    def shapes(self) -> Any:
        """The parameters as shapes and dtypes; nothing is computed.

        Returns:
          Nested dictionaries of `jax.ShapeDtypeStruct`.
        """
        t = jax.ShapeDtypeStruct((), WIDE)
        x = jax.ShapeDtypeStruct((1, *self.config.image_shape), WIDE)
        label = jax.ShapeDtypeStruct((1,), jnp.int32)
        return jax.eval_shape(self.init, jax.random.key(0), t, x, label)["params"]

    def check_args(self, args: tuple[Any, ...]) -> None:
        """Checks the labels of all samples; see `conditioning.check`.

        Args:
          args: what follows x in a call of the field, concrete.

        Raises:
          ValueError: unless they are labels (N,) in range.
        """
        labels.check_args(args, self.config.num_classes)
