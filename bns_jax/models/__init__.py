"""Networks and the files that hold their weights; they know no solver."""

from bns_jax.models.unet import UNet as UNet
from bns_jax.models.unet import UNetConfig as UNetConfig
