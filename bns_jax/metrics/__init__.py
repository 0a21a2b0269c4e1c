"""How close a sample is to the true one, and many samples to those of the data."""

from bns_jax.metrics.bootstrap import bootstrap_interval as bootstrap_interval
from bns_jax.metrics.decoded import decoded_psnr as decoded_psnr
from bns_jax.metrics.fid import fid as fid
from bns_jax.metrics.fid import image_statistics as image_statistics
from bns_jax.metrics.frechet import Gaussian as Gaussian
from bns_jax.metrics.frechet import frechet_distance as frechet_distance
from bns_jax.metrics.images import to_bytes as to_bytes
from bns_jax.metrics.psnr import data_range as data_range
from bns_jax.metrics.psnr import mean_squared_error as mean_squared_error
from bns_jax.metrics.psnr import psnr as psnr
from bns_jax.metrics.psnr import snr as snr
from bns_jax.metrics.reference import read_statistics as read_statistics
from bns_jax.metrics.reference import write_statistics as write_statistics
from bns_jax.metrics.streaming import Moments as Moments
from bns_jax.metrics.streaming import gaussian as gaussian
from bns_jax.metrics.streaming import merge as merge
from bns_jax.metrics.streaming import moments as moments
from bns_jax.metrics.streaming import statistics as statistics
