"""Laws of runs of Gauss-Newton steps: where they resume, stop, and end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bns_jax import checkpoint, distill, families, ns, parallel, schedulers, solvers
from bns_jax.distill.state import initial_state

from . import problems, searches
from .fields import wavy
from .laws import first_of

NFE = 3


@pytest.fixture(scope="module")
def problem():
    return problems.wavy_problem()


def fit(problem, start=None, **kwargs):
    field, train, validation = problem
    defaults = {
        "optimizer": distill.gauss_newton(),
        "batch": 16,
        "iterations": 10,
        "evaluate_every": 4,
        "patience": 100,
    }
    family = families.bns(solvers.euler(NFE)) if start is None else start
    return searches.fit(family, field, train, validation, **defaults | kwargs)


def assert_same_run(got, expected):
    for a, b in zip(got.params, expected.params, strict=True):
        np.testing.assert_array_equal(a, b)
    rows = [[row._replace(seconds=0) for row in run.history] for run in (got, expected)]
    np.testing.assert_array_equal(rows[0], rows[1])


@pytest.fixture(scope="module")
def short(problem):
    return fit(problem)


class Killed(Exception):
    pass


@pytest.mark.exhaustive
def test_a_killed_run_continues_bit_for_bit(problem, short, tmp_path):
    def kill(done, total, note=""):
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        fit(problem, checkpoint=tmp_path, progress=kill)
    assert_same_run(fit(problem, checkpoint=tmp_path), short)


@pytest.mark.exhaustive
def test_eight_devices_give_the_run_of_one(problem, short):
    # A microbatch of one sample per device, too.
    laid = fit(problem, mesh=parallel.data_mesh(), microbatch=8)
    for got, expected in zip(laid.params, short.params, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    assert laid.forwards == short.forwards


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(distill.adam(5e-3), marks=pytest.mark.exhaustive, id="adam"),
        pytest.param(distill.gauss_newton(), id="gauss_newton"),
    ],
)
def test_microbatches_give_the_run_of_the_whole_batch(problem, optimizer):
    settings = {"optimizer": optimizer, "iterations": 3}
    whole, parts = (fit(problem, microbatch=size, **settings) for size in (None, 4))
    assert whole.iteration == 3
    for got, expected in zip(parts.params, whole.params, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.exhaustive
def test_forwards_count_two_backward_runs_and_two_trials(short):
    assert short.forwards == (1 + 2 * 2 + 2) * NFE * 16 * 10


def blind(t, x, label):
    """A field that is not finite from t = 0.5 on, for some samples."""
    seen = jnp.where((label == 2) & (t >= 0.5), jnp.nan, 1.0)
    return wavy(t, x) * seen[:, None]


@pytest.mark.exhaustive
def test_a_field_that_is_not_finite_stops_the_run_with_its_time(problem, tmp_path):
    _, train, validation = problem
    label = np.ones(64, int)
    train = train._replace(args=(label + 1,))
    validation = validation._replace(args=(label[:40],))
    start = families.bns(solvers.euler(2))
    message = r"from iteration 1 to 10 was finite: the field is not finite at t = 0\.5;"
    data = (blind, train, validation)
    with pytest.raises(ValueError, match=message):
        fit(data, start, checkpoint=tmp_path)
    saved = checkpoint.restore(tmp_path, like_of(start))
    assert (saved.step, int(saved.state.rejected)) == (10, 10)
    for theta in (saved.state.theta, saved.state.best_theta):
        for got, expected in zip(theta, start.theta, strict=True):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.exhaustive
def test_a_loss_that_is_never_finite_is_said_before_patience_ends(problem):
    def loss(x, target):
        return jnp.sqrt(-1.0 - distill.mse_loss(x, target))

    with pytest.raises(ValueError, match="no step from iteration 1 to 4 was finite"):
        fit(problem, objective=loss, patience=1)


def like_of(family):
    return initial_state(family, distill.gauss_newton().trainer(1), seed=0)


START = families.bns(solvers.midpoint(4))
FAMILIES = {
    "constrained": families.constrained(START, 2),
    "preconditioned": families.preconditioned(START, schedulers.cond_ot(), 1.5),
    "bst": families.bst("midpoint", 4),
}


@pytest.mark.parametrize("name", first_of(FAMILIES, "constrained"))
def test_every_family_ends_above_its_start(problem, name):
    result = fit(problem, FAMILIES[name], batch=None, iterations=4)
    assert result.val_metric > result.history[0].val_metric + 3
    ns.validate(result.params)
    if name == "constrained":
        times, a, b = result.params
        ends = np.append(times[1:], 1.0)
        np.testing.assert_allclose(a, 1.0)
        np.testing.assert_allclose(b.sum(axis=1), ends, atol=1e-12)
        np.testing.assert_allclose(b[-1] @ times, 0.5, atol=1e-12)


@pytest.mark.exhaustive
def test_ten_times_fewer_forwards_than_adam_end_higher(problem):
    fast = fit(problem, iterations=4)
    slow = fit(problem, optimizer=distill.adam(), iterations=100, evaluate_every=50)
    assert 10 * fast.forwards < slow.forwards
    assert fast.val_metric > slow.val_metric + 3


# --- losses of the path --------------------------------------------------------------


def test_a_loss_of_the_whole_path_is_refused_before_the_start(problem, tmp_path):
    loss, directory = distill.bespoke_loss("midpoint"), tmp_path / "run"
    with pytest.raises(ValueError, match="got one of another rollout: Objective"):
        fit(problem, FAMILIES["bst"], objective=loss, checkpoint=directory)
    assert not directory.exists()


@pytest.mark.exhaustive
def test_adam_lowers_the_loss_of_the_whole_path(problem):
    loss = distill.bespoke_loss("midpoint")
    run = fit(
        problem,
        families.bst("midpoint", 4),
        objective=loss,
        optimizer=distill.adam(1e-2),
        iterations=60,
        evaluate_every=20,
    )
    losses = [row.train_loss for row in run.history[1:]]
    assert losses[0] > losses[1] > losses[2]
    assert run.val_metric > run.history[0].val_metric + 3


# --- single precision ----------------------------------------------------------------


def single(double):
    """A short run where float64 is switched off."""
    with jax.enable_x64(False):
        family = families.bns(solvers.midpoint(4))
        return fit(
            problems.wavy_problem(np.float32),
            family._replace(theta=jax.tree.map(jnp.float32, family.theta)),
            optimizer=distill.gauss_newton(double=double),
            batch=None,
            iterations=4,
        )


@pytest.mark.exhaustive
def test_single_precision_alone_gets_as_far():
    alone, with_double = single(False), single(True)
    assert alone.params.b.dtype == np.float32
    assert with_double.val_metric > with_double.history[0].val_metric + 15
    assert alone.val_metric > with_double.val_metric - 1.0
