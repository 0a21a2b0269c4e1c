"""Known solvers, each written as its paper writes it and traced into NSParams.

Each is a small frozen dataclass (`Method`): its fields are its options, its attributes
say order, stages and reference, and its `algorithm` is traced by `build`. `CATALOGUE`
lists them by name, `build(name, nfe, scheduler)` makes them, and those with options of
their own have a function too: `ddim(nfe, scheduler)`.
"""

from bns_jax.solvers.base import Method
from bns_jax.solvers.baselines import ALL, COMMON, build_all, expand
from bns_jax.solvers.catalogue import CATALOGUE, algorithm, build, look_up
from bns_jax.solvers.ddim import DDIM, ddim
from bns_jax.solvers.deis import DEIS, deis
from bns_jax.solvers.dpm import DPMMultistep, DPMSinglestep
from bns_jax.solvers.dpm_solver import dpm_solver, dpm_solver_pp
from bns_jax.solvers.edm import EDM, edm
from bns_jax.solvers.ipndm import IPNDM, ipndm
from bns_jax.solvers.multistep import (
    AdamsBashforth,
    Multistep,
    adams_bashforth,
    multistep,
)
from bns_jax.solvers.pndm import PNDM, pndm
from bns_jax.solvers.runge_kutta import (
    HeunEuler,
    RungeKutta,
    euler,
    heun,
    heun_euler,
    midpoint,
    ralston,
    rk3,
    rk4,
    runge_kutta,
)
from bns_jax.solvers.tableaus import EULER, HEUN, MIDPOINT, RALSTON, RK3, RK4, Tableau
from bns_jax.solvers.tables import (
    from_flow_sigmas,
    from_flow_timesteps,
    from_sigmas,
    from_timesteps,
)
from bns_jax.solvers.unipc import UniPC, unipc

__all__ = [
    "ALL",
    "CATALOGUE",
    "COMMON",
    "DDIM",
    "DEIS",
    "EDM",
    "EULER",
    "HEUN",
    "IPNDM",
    "MIDPOINT",
    "PNDM",
    "RALSTON",
    "RK3",
    "RK4",
    "AdamsBashforth",
    "DPMMultistep",
    "DPMSinglestep",
    "HeunEuler",
    "Method",
    "Multistep",
    "RungeKutta",
    "Tableau",
    "UniPC",
    "adams_bashforth",
    "algorithm",
    "build",
    "build_all",
    "ddim",
    "deis",
    "dpm_solver",
    "dpm_solver_pp",
    "edm",
    "euler",
    "expand",
    "from_flow_sigmas",
    "from_flow_timesteps",
    "from_sigmas",
    "from_timesteps",
    "heun",
    "heun_euler",
    "ipndm",
    "look_up",
    "midpoint",
    "multistep",
    "pndm",
    "ralston",
    "rk3",
    "rk4",
    "runge_kutta",
    "unipc",
]
