"""Our solvers against figures that k-diffusion gave.

The package brings far more than a test should install, so `k_diffusion.json` keeps what
version 0.1.1.post1 computed: `sample_euler`, `sample_heun` and `sample_dpmpp_2m`, with
the denoiser `mixture.data(1, sigma, x)` in float64, from `mixture.X0 * sigmas[0]` over
the sigmas in the file.
"""

import json
import pathlib

import numpy as np
import pytest

from bns_jax import schedulers, solvers
from tests.laws import run
from tests.parity import mixture

GIVEN = json.loads((pathlib.Path(__file__).parent / "k_diffusion.json").read_text())


@pytest.mark.parametrize(
    ("theirs", "name"),
    [("euler", "ddim"), ("dpmpp_2m", "dpm_solver_pp_2m"), ("euler", "edm_euler")],
)
def test_one_evaluation_a_step(theirs, name):
    sigmas = np.array(GIVEN["sigmas"])
    path = schedulers.ve(sigmas[0])
    params = solvers.from_sigmas(name, sigmas, path)
    got = run(params, mixture.velocity(path), mixture.X0 * sigmas[0])[-1]
    assert np.max(np.abs(got - np.array(GIVEN[theirs]))) < 1e-10


def test_heun():
    sigmas = np.array(GIVEN["sigmas"])
    path = schedulers.ve(sigmas[0])
    nfe = 2 * (len(sigmas) - 1) - 1
    params = solvers.edm(nfe, path, sigma_max=sigmas[0], sigma_min=sigmas[-2])
    got = run(params, mixture.velocity(path), mixture.X0 * sigmas[0])[-1]
    assert np.max(np.abs(got - np.array(GIVEN["heun"]))) < 1e-10
