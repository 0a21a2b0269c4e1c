"""The family of non-stationary solvers, its sampler, and the trace into it.

Section 3.1 and Prop. 3.1 of arXiv:2403.01329: every explicit solver that calls the
velocity field n times is, after unrolling, three arrays,

    x_{i+1} = a_i x_0 + sum_{j <= i} b_ij u_j,    u_j = u(t_j, x_j),    i = 0 .. n-1.
"""

from bns_jax.ns.params import NSParams as NSParams
from bns_jax.ns.params import check_shapes as check_shapes
from bns_jax.ns.params import extend as extend
from bns_jax.ns.params import from_updates as from_updates
from bns_jax.ns.params import num_params as num_params
from bns_jax.ns.params import validate as validate
from bns_jax.ns.sampler import sample as sample
from bns_jax.ns.sampler import sample_path as sample_path
from bns_jax.ns.sampler import sample_velocities as sample_velocities
from bns_jax.ns.trace import as_solver as as_solver
from bns_jax.ns.trace import from_solver as from_solver
