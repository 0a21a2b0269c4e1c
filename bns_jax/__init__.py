"""Bespoke non-stationary solvers for diffusion and flow models, in JAX.

Every explicit solver with n evaluations of the velocity field is three small arrays;
`sample` runs them all. Implements arXiv:2403.01329.

`import bns_jax` needs jax alone. The modules that need more (`ground_truth`,
`distill`, `checkpoint`, `models`, ...) are loaded when they are first used.
"""

import importlib
from typing import Any

from bns_jax import families as families
from bns_jax import grids as grids
from bns_jax import ns as ns
from bns_jax import scale_time as scale_time
from bns_jax import schedulers as schedulers
from bns_jax import solvers as solvers
from bns_jax import velocity as velocity
from bns_jax.ns import NSParams as NSParams
from bns_jax.ns import from_solver as from_solver
from bns_jax.ns import from_updates as from_updates
from bns_jax.ns import num_params as num_params
from bns_jax.ns import sample as sample
from bns_jax.ns import sample_path as sample_path
from bns_jax.version import __version__ as __version__

_LOADED_ON_USE = (
    "accuracy",
    "checkpoint",
    "comparison",
    "conventions",
    "distill",
    "finding",
    "ground_truth",
    "identity",
    "interchange",
    "metrics",
    "models",
    "pairs",
    "parallel",
    "problem",
)


_FUNCTIONS = {"Problem": "problem", "compare": "comparison", "find": "finding"}
"""Where these come from, likewise."""


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"bns_jax.{_FUNCTIONS[name]}"), name)
    if name in _LOADED_ON_USE:
        return importlib.import_module(f"bns_jax.{name}")
    raise AttributeError(f"module 'bns_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LOADED_ON_USE, *_FUNCTIONS])
