"""Fitting a solver to ground-truth pairs: Algorithm 2, and faster."""

from bns_jax.distill.distilled import Distilled as Distilled
from bns_jax.distill.evaluate import evaluate as evaluate
from bns_jax.distill.first_order import adam as adam
from bns_jax.distill.first_order import recipe as recipe
from bns_jax.distill.first_order import with_optax as with_optax
from bns_jax.distill.fit import Interrupted as Interrupted
from bns_jax.distill.fit import fit as fit
from bns_jax.distill.gauss_newton import gauss_newton as gauss_newton
from bns_jax.distill.greedy import greedy as greedy
from bns_jax.distill.losses import huber_loss as huber_loss
from bns_jax.distill.losses import mse_loss as mse_loss
from bns_jax.distill.losses import psnr_loss as psnr_loss
from bns_jax.distill.losses import snr_loss as snr_loss
from bns_jax.distill.optimizer import Loss as Loss
from bns_jax.distill.optimizer import Metric as Metric
from bns_jax.distill.optimizer import Objective as Objective
from bns_jax.distill.optimizer import Optimizer as Optimizer
from bns_jax.distill.optimizer import Rows as Rows
from bns_jax.distill.optimizer import Trainer as Trainer
from bns_jax.distill.optimizer import Update as Update
from bns_jax.distill.path_grid import path_grid as path_grid
from bns_jax.distill.path_grid import path_grids as path_grids
from bns_jax.distill.run_identity import identify as identify
from bns_jax.distill.state import HistoryRow as HistoryRow
from bns_jax.distill.state import TrainerState as TrainerState
