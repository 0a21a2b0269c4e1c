"""How close a sample is to the true one."""

from bns_jax.metrics.bootstrap import bootstrap_interval as bootstrap_interval
from bns_jax.metrics.psnr import mean_squared_error as mean_squared_error
from bns_jax.metrics.psnr import psnr as psnr
from bns_jax.metrics.psnr import snr as snr
