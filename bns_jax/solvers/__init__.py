"""Known solvers, each written as its paper writes it and traced into NSParams.

Each comes twice: as a plain algorithm, named `*_algorithm`, and traced into three
arrays. `CATALOGUE` lists them by name, and `build(name, nfe, scheduler)` makes them.
"""

from bns_jax.solvers.baselines import ALL, COMMON, build_all, expand
from bns_jax.solvers.catalogue import (
    CATALOGUE,
    Entry,
    algorithm,
    build,
    look_up,
)
from bns_jax.solvers.ddim import (
    ddim,
    ddim_algorithm,
)
from bns_jax.solvers.deis import (
    deis,
    deis_algorithm,
)
from bns_jax.solvers.dpm_solver import (
    dpm_multistep_algorithm,
    dpm_singlestep_algorithm,
    dpm_solver,
    dpm_solver_pp,
)
from bns_jax.solvers.edm import (
    edm,
    edm_algorithm,
)
from bns_jax.solvers.ipndm import (
    ipndm,
    ipndm_algorithm,
)
from bns_jax.solvers.multistep import (
    adams_bashforth,
    adams_bashforth_algorithm,
    multistep,
    multistep_algorithm,
)
from bns_jax.solvers.pndm import (
    pndm,
    pndm_algorithm,
)
from bns_jax.solvers.runge_kutta import (
    EULER,
    HEUN,
    MIDPOINT,
    RALSTON,
    RK3,
    RK4,
    Tableau,
    euler,
    heun,
    heun_euler,
    heun_euler_algorithm,
    midpoint,
    ralston,
    rk3,
    rk4,
    runge_kutta,
    runge_kutta_algorithm,
)
from bns_jax.solvers.tables import (
    from_flow_sigmas,
    from_flow_timesteps,
    from_sigmas,
    from_timesteps,
)
from bns_jax.solvers.unipc import (
    unipc,
    unipc_algorithm,
)

__all__ = [
    "ALL",
    "CATALOGUE",
    "COMMON",
    "EULER",
    "HEUN",
    "MIDPOINT",
    "RALSTON",
    "RK3",
    "RK4",
    "Entry",
    "Tableau",
    "adams_bashforth",
    "adams_bashforth_algorithm",
    "algorithm",
    "build",
    "build_all",
    "ddim",
    "ddim_algorithm",
    "deis",
    "deis_algorithm",
    "dpm_multistep_algorithm",
    "dpm_singlestep_algorithm",
    "dpm_solver",
    "dpm_solver_pp",
    "edm",
    "edm_algorithm",
    "euler",
    "expand",
    "from_flow_sigmas",
    "from_flow_timesteps",
    "from_sigmas",
    "from_timesteps",
    "heun",
    "heun_euler",
    "heun_euler_algorithm",
    "ipndm",
    "ipndm_algorithm",
    "look_up",
    "midpoint",
    "multistep",
    "multistep_algorithm",
    "pndm",
    "pndm_algorithm",
    "ralston",
    "rk3",
    "rk4",
    "runge_kutta",
    "runge_kutta_algorithm",
    "unipc",
    "unipc_algorithm",
]
