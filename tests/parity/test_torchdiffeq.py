"""Our Runge-Kutta methods against torchdiffeq's fixed-grid ones."""

import numpy as np
import pytest

from bns_jax import solvers
from tests.laws import run

torch = pytest.importorskip("torch", reason="parity needs pip install -e '.[parity]'")
torchdiffeq = pytest.importorskip(
    "torchdiffeq", reason="parity needs pip install -e '.[parity]'"
)


def field(t, x, sin):
    return sin(2.0 * x + 1.3 * t) - 0.5 * x


@pytest.mark.parametrize(
    ("name", "method", "stages"),
    [("euler", "euler", 1), ("midpoint", "midpoint", 2), ("heun", "heun2", 2)],
)
def test_fixed_grid_methods(name, method, stages):
    times = np.linspace(0.0, 1.0, 9) ** 1.5
    x0 = np.random.default_rng(0).normal(size=(4, 8))
    theirs = torchdiffeq.odeint(
        lambda t, x: field(t, x, torch.sin),
        torch.tensor(x0),
        torch.tensor(times),
        method=method,
    )[-1].numpy()
    params = solvers.build(name, stages * 8, None, times)
    ours = run(params, lambda t, x: field(t, x, np.sin), x0)[-1]
    assert np.max(np.abs(ours - theirs)) < 1e-10


def test_three_eighths_rule():
    """torchdiffeq's "rk4" is the 3/8 rule: a tableau that a user hands in."""
    tableau = solvers.Tableau(
        "three_eighths",
        a=((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)),
        b=(1 / 8, 3 / 8, 3 / 8, 1 / 8),
    )
    times = np.linspace(0.0, 1.0, 6)
    x0 = np.random.default_rng(0).normal(size=(4, 8))
    theirs = torchdiffeq.odeint(
        lambda t, x: field(t, x, torch.sin),
        torch.tensor(x0),
        torch.tensor(times),
        method="rk4",
    )[-1].numpy()
    params = solvers.runge_kutta(20, tableau, grid=times)
    ours = run(params, lambda t, x: field(t, x, np.sin), x0)[-1]
    assert np.max(np.abs(ours - theirs)) < 1e-10
