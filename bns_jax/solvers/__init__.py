"""Known solvers, each written as its paper writes it and traced into NSParams.

Each solver comes twice: as the plain algorithm, named `*_algorithm`, and traced into
three arrays under its own name.
"""

from bns_jax.solvers.adams_bashforth import (
    adams_bashforth as adams_bashforth,
)
from bns_jax.solvers.adams_bashforth import (
    adams_bashforth_algorithm as adams_bashforth_algorithm,
)
from bns_jax.solvers.exponential import ddim as ddim
from bns_jax.solvers.exponential import ddim_algorithm as ddim_algorithm
from bns_jax.solvers.exponential import dpm_solver_pp as dpm_solver_pp
from bns_jax.solvers.exponential import (
    dpm_solver_pp_algorithm as dpm_solver_pp_algorithm,
)
from bns_jax.solvers.runge_kutta import EULER as EULER
from bns_jax.solvers.runge_kutta import HEUN as HEUN
from bns_jax.solvers.runge_kutta import MIDPOINT as MIDPOINT
from bns_jax.solvers.runge_kutta import RK4 as RK4
from bns_jax.solvers.runge_kutta import Tableau as Tableau
from bns_jax.solvers.runge_kutta import euler as euler
from bns_jax.solvers.runge_kutta import heun as heun
from bns_jax.solvers.runge_kutta import midpoint as midpoint
from bns_jax.solvers.runge_kutta import rk4 as rk4
from bns_jax.solvers.runge_kutta import runge_kutta as runge_kutta
from bns_jax.solvers.runge_kutta import runge_kutta_algorithm as runge_kutta_algorithm
