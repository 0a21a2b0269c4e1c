"""The denoisers of EDM (Karras et al., 2022), arXiv:2206.00364.

Layers carry the names that they have in the published weight files (those of
NVlabs/edm), so that the tree of parameters says which tensor goes where.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax

from bns_jax.models import edm_precondition, labels, layers
from bns_jax.models.edm_unet import EDMConfig as EDMConfig
from bns_jax.models.edm_unet import EDMUNet
from bns_jax.models.layers import WIDE
from bns_jax.models.network import Network


class EDMDenoiser(Network):
    """A denoiser D(sigma, x, label): a network and its preconditioning (equation 7).

    Attributes: as of `Network`; the dtype is that of convolutions and attention.
    """

    config: EDMConfig

    @nn.compact
    def __call__(
        self, sigma: jax.Array, x: jax.Array, label: jax.Array | None = None
    ) -> jax.Array:
        """Evaluates the network.

        Args:
          sigma: standard deviation of the noise in x, a scalar or (batch,).
          x: data plus noise (batch, height, width, channels).
          label: classes (batch,), integers; not looked at without classes. Inside of
            jit one that is out of range gives nan.

        Returns:
          The expected data, of the shape and dtype of x.

        Raises:
          ValueError: if the labels are no integers (batch,), or known and out of range.
        """
        if self.config.num_classes:
            label = labels.of_batch(label, x, self.config.num_classes)
        levels = layers.per_sample(sigma, x)
        by = edm_precondition.scalings(self.config, levels)
        skip, out, given = (c[:, None, None, None] for c in (by.skip, by.out, by.given))
        network = EDMUNet(self.config, self.dtype, self.remat, name="model")
        raw = network(by.noise, x.astype(WIDE) * given, label)
        raw = raw[..., : self.config.channels]
        return (skip * x.astype(WIDE) + out * raw).astype(x.dtype)


def unused(
    config: EDMConfig, layout: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """What a file holds besides the weights that sampling needs.

    Args:
      config: the architecture.
      layout: name -> shape of the weights.

    Returns:
      Name -> shape of the filters, which `taps` fix, of the input that tells of
      augmentations, and of iDDPM's noise levels.
    """
    taps = (1, 1, len(config.taps), len(config.taps))
    extra: dict[str, tuple[int, ...]] = {}
    for name in layout:
        block, _, layer = name.removesuffix(".weight").rpartition(".")
        if layer == "conv0" and block.endswith(("_up", "_down")):
            extra[f"{block}.conv0.resample_filter"] = taps
            extra[f"{block}.skip.resample_filter"] = taps
        elif layer.endswith("_aux_residual"):
            extra[f"{block}.{layer}.resample_filter"] = taps
    if config.augment:
        rows = layout["model.map_layer0.weight"][1]
        extra["model.map_augment.weight"] = (rows, config.augment)
    if config.preconditioning == "iddpm":
        extra["u"] = edm_precondition.iddpm_levels().shape
    return extra
