"""Time grids: functions from a number of steps to steps + 1 sorted times in [0, 1].

Some are laid in time, some in the noise-to-signal ratio sigma / alpha of a scheduler
(what k-diffusion and diffusers call sigmas), some in the discrete steps that a model
was trained on.
"""

from __future__ import annotations

from bns_jax.grids.base import Grid as Grid
from bns_jax.grids.base import GridLike as GridLike
from bns_jax.grids.base import ends as ends
from bns_jax.grids.base import from_times as from_times
from bns_jax.grids.base import resampled as resampled
from bns_jax.grids.base import times as times
from bns_jax.grids.base import uniform as uniform
from bns_jax.grids.flow import dynamic_shift as dynamic_shift
from bns_jax.grids.flow import shifted as shifted
from bns_jax.grids.noise_levels import Final as Final
from bns_jax.grids.noise_levels import at_levels as at_levels
from bns_jax.grids.noise_levels import beta as beta
from bns_jax.grids.noise_levels import check_largest as check_largest
from bns_jax.grids.noise_levels import exponential as exponential
from bns_jax.grids.noise_levels import karras as karras
from bns_jax.grids.noise_levels import level_range as level_range
from bns_jax.grids.noise_levels import log_snr as log_snr
from bns_jax.grids.training_steps import at_steps as at_steps
from bns_jax.grids.training_steps import check_path as check_path
from bns_jax.grids.training_steps import held as held
from bns_jax.grids.training_steps import steps_of_training as steps_of_training
from bns_jax.grids.training_steps import timesteps as timesteps
