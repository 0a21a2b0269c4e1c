"""Networks and the files that hold their weights; they know no solver."""

from bns_jax.models import inception as inception
from bns_jax.models.pretrained import Pretrained as Pretrained
from bns_jax.models.pretrained import load as load
from bns_jax.models.published import PUBLISHED as PUBLISHED
from bns_jax.models.unet import UNet as UNet
from bns_jax.models.unet import UNetConfig as UNetConfig
