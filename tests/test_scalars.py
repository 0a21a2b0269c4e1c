"""One rule for the numbers of every constructor of a scheduler, a grid or a solver."""

import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import grids, scalars, schedulers, solvers

VE = schedulers.ve(80.0)

POSITIVE = {
    "vp-beta_min": lambda value: schedulers.vp(value, 20.0),
    "vp-beta_max": lambda value: schedulers.vp(0.1, value),
    "ve-sigma_max": schedulers.ve,
    "ve-rho": lambda value: schedulers.ve(80.0, value),
    "shifted-shift": schedulers.shifted,
    "log_snr-margin": lambda value: grids.log_snr(VE, value),
    "karras-sigma_min": lambda value: grids.karras(VE, value),
    "karras-sigma_max": lambda value: grids.karras(VE, 1e-6, value),
    "karras-rho": lambda value: grids.karras(VE, rho=value),
    "exponential-sigma_min": lambda value: grids.exponential(VE, value),
    "exponential-sigma_max": lambda value: grids.exponential(VE, 1e-6, value),
    "beta-sigma_min": lambda value: grids.beta(VE, value),
    "beta-sigma_max": lambda value: grids.beta(VE, 1e-6, value),
    "beta-a": lambda value: grids.beta(VE, a=value),
    "beta-b": lambda value: grids.beta(VE, b=value),
    "grids.shifted-shift": grids.shifted,
    "edm-sigma_min": lambda value: solvers.edm(3, VE, sigma_min=value),
    "edm-sigma_max": lambda value: solvers.edm(3, VE, sigma_min=1e-6, sigma_max=value),
    "edm-rho": lambda value: solvers.edm(3, VE, rho=value),
}
"""Numbers that must be positive and finite."""

FRACTIONS = {
    "uniform-start": lambda value: grids.uniform(value, 1.0),
    "uniform-end": lambda value: grids.uniform(0.0, value),
}

COUNTS = {
    "timesteps-T": lambda value: grids.timesteps("trailing", value),
    "dynamic_shift-tokens": grids.dynamic_shift,
    "times-steps": lambda value: grids.times(None, value),
    "from_timesteps-steps": lambda value: solvers.from_timesteps(
        "ddim", [0], schedulers.vp(), value, partial=True
    ),
    "from_flow_timesteps-steps": lambda value: solvers.from_flow_timesteps(
        "euler", [1], steps=value, partial=True
    ),
    "runge_kutta-nfe": solvers.euler,
    "multistep-nfe": lambda value: solvers.multistep(value, (1.0,), (1.0,)),
} | {
    f"{name}-nfe": lambda value, name=name: solvers.build(name, value, VE)
    for name in solvers.CATALOGUE
}
"""Numbers that must be whole and at least 1."""

NO_NUMBERS = [np.inf, -np.inf, np.nan, "1", None, [1.0, 2.0], True, 1j]


def named(value):
    return repr(value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1.0, 0], ids=named)
@pytest.mark.parametrize("name", POSITIVE)
def test_positive_numbers(name, value):
    # Left out, they are the scheduler's own.
    if value is None and "sigma" in name and name != "ve-sigma_max":
        return
    _, parameter = name.rsplit("-", 1)
    with pytest.raises(ValueError, match=f"{parameter} must be positive and finite"):
        POSITIVE[name](value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, -0.1, 1.1], ids=named)
@pytest.mark.parametrize("name", FRACTIONS)
def test_fractions(name, value):
    _, parameter = name.rsplit("-", 1)
    with pytest.raises(ValueError, match=rf"{parameter} must be a number in \[0, 1\]"):
        FRACTIONS[name](value)


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    for value in (*NO_NUMBERS, 2.0, np.float64(2), 0, -1):
        if value is None and name in ("from_timesteps-steps", "timesteps-T"):
            continue
        with pytest.raises(ValueError, match=r"whole number|must be at least 1|got"):
            COUNTS[name](value)


@pytest.mark.parametrize("kind", [np.float32, np.float64, jnp.float32, np.int64])
def test_numbers_of_every_library_are_numbers(kind):
    """A scheduler is hashable and equal to that of Python's number."""
    assert schedulers.ve(kind(8)) == schedulers.ve(8.0)
    assert hash(schedulers.vp(kind(1), kind(8))) == hash(schedulers.vp(1.0, 8.0))
    assert type(schedulers.shifted(kind(3)).shift) is float
    np.testing.assert_array_equal(grids.shifted(kind(3))(4), grids.shifted(3)(4))


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint16, jnp.int32])
@pytest.mark.parametrize("name", solvers.CATALOGUE)
def test_counts_of_every_library_are_counts(name, kind):
    nfe = next(n for n in (12, 13) if exists(name, n))
    got = solvers.build(name, kind(nfe), schedulers.vp())
    expected = solvers.build(name, nfe, schedulers.vp())
    for leaf, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(leaf, other)


def exists(name, nfe):
    try:
        return solvers.build(name, nfe, schedulers.vp()) is not None
    except ValueError:
        return False


@pytest.mark.parametrize("order", [np.int64(2), np.uint8(2), jnp.asarray(2)], ids=repr)
def test_orders_of_every_library_are_orders(order):
    path = schedulers.vp()
    for build in (solvers.dpm_solver, solvers.deis, solvers.unipc, solvers.ipndm):
        for leaf, other in zip(build(7, path, order), build(7, path, 2), strict=True):
            np.testing.assert_array_equal(leaf, other)
    for build in (solvers.dpm_solver, solvers.deis, solvers.unipc, solvers.ipndm):
        for wrong in (2.0, True, "2", np.nan):
            with pytest.raises(ValueError, match="order must be"):
                build(7, path, wrong)


def test_what_a_number_is():
    assert scalars.count("n", np.int8(3)) == 3
    assert scalars.finite("x", np.asarray(0.5)) == 0.5
