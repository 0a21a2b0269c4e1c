"""Many devices and many hosts: start-up, layout of arrays, agreement of processes."""

from bns_jax.parallel.hosts import agree as agree
from bns_jax.parallel.hosts import gather_text as gather_text
from bns_jax.parallel.hosts import if_everywhere as if_everywhere
from bns_jax.parallel.hosts import is_main as is_main
from bns_jax.parallel.hosts import on_main as on_main
from bns_jax.parallel.hosts import steps_in_flight as steps_in_flight
from bns_jax.parallel.layout import batch_devices as batch_devices
from bns_jax.parallel.layout import batches as batches
from bns_jax.parallel.layout import check_divisible as check_divisible
from bns_jax.parallel.layout import check_mesh as check_mesh
from bns_jax.parallel.layout import data_mesh as data_mesh
from bns_jax.parallel.layout import fsdp as fsdp
from bns_jax.parallel.layout import place as place
from bns_jax.parallel.layout import replicate as replicate
from bns_jax.parallel.layout import replicated as replicated
from bns_jax.parallel.layout import shard as shard
from bns_jax.parallel.start import finish as finish
from bns_jax.parallel.start import start as start
