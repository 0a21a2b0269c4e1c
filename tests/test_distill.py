"""Laws of distillation: exact gradients, runs that resume, a result that is kept."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bns_jax import (
    NSParams,
    checkpoint,
    distill,
    families,
    metrics,
    ns,
    pairs,
    parallel,
    solvers,
)
from bns_jax.distill.batch import of_rows
from bns_jax.distill.finite import report_not_finite
from bns_jax.distill.state import initial_state
from bns_jax.distill.stopping import is_stale
from bns_jax.pairs import Pairs
from bns_jax.pytree import as_pytree

from . import problems, searches
from .laws import first_of

NFE, BATCH = 4, 16
UPHILL = distill.with_optax(optax.scale(0.1))


@pytest.fixture(scope="module")
def problem():
    return problems.shifted_problem()


def fit(problem, start=None, **kwargs):
    field, train, validation = problem
    settings = {
        "vf": field,
        "train": train,
        "validation": validation,
        "optimizer": distill.adam(5e-3),
        "batch": BATCH,
        "iterations": 12,
        "evaluate_every": 5,
    } | kwargs
    family = settings.pop("family", families.bns(start or solvers.midpoint(NFE)))
    return searches.fit(family, **settings)


def assert_same_run(got, expected):
    for a, b in zip(got.params, expected.params, strict=True):
        np.testing.assert_array_equal(a, b)
    assert got[2:] == expected[2:]
    rows = [[row._replace(seconds=0) for row in run.history] for run in (got, expected)]
    np.testing.assert_array_equal(rows[0], rows[1])


# --- losses and steps ----------------------------------------------------------------


def test_the_gradient_of_psnr_loss_is_two_r_over_d_m(rng):
    x, target = rng.normal(size=(2, 3, 4, 2))
    gradient = jax.grad(lambda x: jnp.sum(distill.psnr_loss(x, target)))(x)
    r = x - target
    m = np.mean(r**2, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(gradient, 2 * r / (8 * m), rtol=1e-12)


def test_psnr_loss_is_minus_psnr_up_to_scale(rng):
    x, target = rng.normal(size=(2, 3, 4))
    loss = distill.psnr_loss(x, target)
    mse = np.mean((x - target) ** 2, 1)
    np.testing.assert_allclose(loss, np.log(mse), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_psnr_loss_is_finite_at_an_exact_match(dtype):
    x = jnp.ones((2, 3), dtype)
    value, gradient = jax.value_and_grad(lambda y: jnp.sum(distill.psnr_loss(y, x)))(x)
    assert np.isfinite(value)
    np.testing.assert_array_equal(gradient, 0.0)


def as_tree(x):
    return {"a": jnp.asarray(x[:, :1]), "b": jnp.asarray(x[:, 1:, None])}


def huber_by_hand(r, delta):
    small = np.abs(r) <= delta
    return np.where(small, r**2 / 2, delta * (np.abs(r) - delta / 2)).mean(axis=1)


LOSSES = {
    "psnr": (distill.psnr_loss, lambda r, y: np.log(np.mean(r**2, 1))),
    "mse": (distill.mse_loss, lambda r, y: np.mean(r**2, 1)),
    "snr": (
        distill.snr_loss,
        lambda r, y: np.log(np.sum(r**2, 1) / np.sum(y**2, 1)),
    ),
    "huber": (distill.huber_loss(0.7), lambda r, y: huber_by_hand(r, 0.7)),
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_are_those_by_hand_of_arrays_and_of_pytrees(rng, name):
    loss, by_hand = LOSSES[name]
    x, target = rng.normal(size=(2, 6, 4))
    expected = by_hand(x - target, target)
    np.testing.assert_allclose(loss(x, target), expected, rtol=1e-12)
    np.testing.assert_allclose(loss(as_tree(x), as_tree(target)), expected, rtol=1e-12)


@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_have_the_gradient_of_differences(rng, name):
    loss, by_hand = LOSSES[name]
    x, target, along = rng.normal(size=(3, 6, 4))
    gradient = jax.grad(lambda x: jnp.sum(loss(x, target)))(x)
    h = 1e-6
    ahead, behind = (by_hand(x + s * along - target, target) for s in (h, -h))
    slope = np.sum(gradient * along, axis=1)
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-6)


def test_losses_in_decibels_are_the_metrics(rng):
    x, target = rng.normal(size=(2, 6, 4))
    for loss, metric, peak in (
        (distill.psnr_loss, metrics.psnr, 4.0),
        (distill.snr_loss, metrics.snr, 1.0),
    ):
        decibels = 10 * np.log10(peak) - 10 / np.log(10) * loss(x, target)
        np.testing.assert_allclose(metric(x, target), decibels, rtol=1e-12)


@pytest.mark.parametrize("delta", [0.0, -1.0, np.nan])
def test_a_huber_loss_needs_a_size(delta):
    with pytest.raises(ValueError, match="delta must be positive and finite, got"):
        distill.huber_loss(delta)


def goal_of(to_params, field, x0, x1, loss=distill.psnr_loss):
    batch = distill.Batch(x0, x1, (), jnp.ones(len(x0)))
    of_end = distill.Objective(distill.pairwise(loss))
    return distill.Goal(to_params, field, batch, of_end)


@pytest.mark.parametrize(
    ("optimizer", "tx", "tolerance"),
    [
        (distill.with_optax(optax.sgd(0.1)), optax.sgd(0.1), 1e-12),
        # A schedule of optax computes its rate in float32.
        (distill.adam(0.01), optax.adam(0.01), 1e-9),
    ],
    ids=["sgd", "adam"],
)
def test_a_step_is_the_step_of_optax_on_the_gradient_by_hand(
    rng, optimizer, tx, tolerance
):
    # NFE 1 with u = c: x_1 = a x0 + b c, a loss of two numbers.
    x0, x1 = rng.normal(size=(2, 5, 3))
    c, a, b = 0.7, 0.9, 0.4
    theta = {"a": jnp.array([a]), "b": jnp.array([b])}

    def to_params(theta):
        return NSParams(jnp.zeros(1), theta["a"], theta["b"][None])

    goal = goal_of(to_params, lambda t, x: jnp.full_like(x, c), x0, x1)
    trainer = optimizer.trainer(10)
    update = trainer.update(goal, theta, trainer.init(theta), jax.random.key(0))

    r = a * x0 + b * c - x1
    m = np.mean(r**2, axis=1)
    by_hand = {
        "a": jnp.array([np.mean(np.mean(2 * r * x0, axis=1) / m)]),
        "b": jnp.array([np.mean(np.mean(2 * r * c, axis=1) / m)]),
    }
    with jax.numpy_dtype_promotion("standard"):
        moved, _ = tx.update(by_hand, tx.init(theta), theta)
    for name, expected in optax.apply_updates(theta, moved).items():
        np.testing.assert_allclose(update.theta[name], expected, rtol=tolerance)
    np.testing.assert_allclose(update.loss, np.mean(np.log(m)), rtol=1e-12)
    assert not update.rejected


@pytest.mark.parametrize(
    ("schedule", "decay"),
    [
        ("polynomial", lambda k, n: 1 - k / n),
        ("cosine", lambda k, n: (1 + np.cos(np.pi * k / n)) / 2),
    ],
    ids=["polynomial", "cosine"],
)
def test_the_learning_rate_decays_to_zero_over_the_run(schedule, decay):
    # Adam on a constant gradient moves by the learning rate itself.
    rate, iterations = 1e-2, 6
    trainer = distill.adam(rate, schedule).trainer(iterations)
    goal = goal_of(
        lambda theta: NSParams(jnp.zeros(1), theta, jnp.zeros((1, 1))),
        lambda t, x: x,
        np.ones((2, 3)),
        np.zeros((2, 3)),
        lambda x, target: jnp.mean(x - target, axis=1),
    )
    theta = jnp.array([1.0])
    opt_state, key, values = trainer.init(theta), jax.random.key(0), [1.0]
    update = jax.jit(lambda theta, state: trainer.update(goal, theta, state, key))
    for _ in range(iterations + 1):
        step = update(theta, opt_state)
        theta, opt_state = step.theta, step.opt_state
        values.append(float(theta[0]))
    rates = [rate * decay(k, iterations) for k in range(iterations)] + [0.0]
    np.testing.assert_allclose(-np.diff(values), rates, rtol=1e-6, atol=1e-9)


def test_a_step_that_is_not_finite_is_not_taken():
    trainer = distill.with_optax(optax.sgd(np.nan)).trainer(1)
    theta = jnp.array([1.0])
    goal = goal_of(
        lambda theta: NSParams(jnp.zeros(1), theta, jnp.zeros((1, 1))),
        lambda t, x: x,
        np.ones((2, 3)),
        np.zeros((2, 3)),
    )
    update = trainer.update(goal, theta, trainer.init(theta), jax.random.key(0))
    assert update.rejected
    np.testing.assert_array_equal(update.theta, theta)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0"),
        (
            {"learning_rate": np.nan},
            "learning_rate must be positive and finite, got nan",
        ),
        ({"schedule": "linear"}, "got 'linear'"),
    ],
)
def test_adam_refuses_settings_without_meaning(kwargs, message):
    with pytest.raises(ValueError, match=message):
        distill.adam(**kwargs)


def test_algorithm_2_is_the_default_recipe():
    adam = distill.adam()
    assert (adam.batch, adam.iterations, adam.evaluate_every) == (40, 15_000, 100)
    assert "0.0005" in adam.name
    assert "polynomial" in adam.name


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("images", (5e-4, "polynomial", 40, 15_000, 100)),
        ("text_to_image", (1e-4, "cosine", 8, 20_000, 200)),
        ("audio", (1e-4, "cosine", 40, 15_000, 5_000)),
    ],
)
def test_the_recipes_are_those_of_appendix_d1(name, settings):
    got, (rate, schedule, *counts) = distill.recipe(name), settings
    assert [got.batch, got.iterations, got.evaluate_every] == counts
    assert got.patience is None
    # The first step of Adam is its learning rate.
    trainer = got.trainer(10)
    goal = goal_of(
        lambda theta: NSParams(jnp.zeros(1), theta, jnp.zeros((1, 1))),
        lambda t, x: x,
        np.ones((2, 3)),
        np.zeros((2, 3)),
        lambda x, target: jnp.mean(x - target, axis=1),
    )
    theta = jnp.array([1.0])
    first = trainer.update(goal, theta, trainer.init(theta), jax.random.key(0))
    np.testing.assert_allclose(1 - first.theta, rate, rtol=1e-6)
    assert got.name == distill.adam(rate, schedule).name


def test_a_recipe_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"'images', .*, got 'video'"):
        distill.recipe("video")


# --- evaluation ----------------------------------------------------------------------


def test_evaluate_is_the_psnr_of_each_sample_by_hand():
    # Euler in NumPy; 300 pairs are more than one batch of the evaluation.
    field, _, _ = problems.shifted_problem()
    shift = np.asarray(field.args[0])
    data = problems.shifted_pairs(shift, 300, seed=5)
    x, mean = data.x0, problems.MEAN + shift[data.args[0]]
    for k in range(NFE):
        t = k / NFE
        variance = (t * problems.STD) ** 2 + (1 - t) ** 2
        growth = (t * problems.STD**2 - (1 - t)) / variance
        x = x + (mean + growth * (x - t * mean)) / NFE
    by_hand = 10 * np.log10(4 / np.mean((x - data.x1) ** 2, axis=1))
    got = distill.evaluate(solvers.euler(NFE), field, data)
    np.testing.assert_allclose(got, by_hand, rtol=1e-10)


def test_evaluate_over_devices_is_evaluate(problem):
    field, train, _ = problem
    data = pairs.first(train, 13)
    alone = distill.evaluate(solvers.euler(2), field, data)
    laid = distill.evaluate(solvers.euler(2), field, data, mesh=parallel.data_mesh())
    np.testing.assert_allclose(laid, alone, rtol=1e-10)


# --- runs ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(problem):
    """A short run to the end: what a user does."""
    return fit(problem, iterations=310, evaluate_every=100)


def test_a_run_improves_by_tens_of_decibels(problem):
    # The rate of Algorithm 2; ten times it, as in `run`, swings.
    steady = distill.adam(5e-4)
    run = fit(problem, optimizer=steady, iterations=300, evaluate_every=100)
    start, *rows = run.history
    assert rows[-1].val_metric > start.val_metric + 20
    for row, later in itertools.pairwise(rows):
        assert later.train_loss < row.train_loss


def test_the_result_is_a_valid_solver_that_reproduces_its_metric(run, problem):
    field, _, validation = problem
    ns.validate(run.params)
    assert {type(leaf) for leaf in run.params} == {np.ndarray}
    reached = np.mean(distill.evaluate(run.params, field, validation))
    np.testing.assert_allclose(reached, run.val_metric, rtol=1e-12)


def test_the_history_tells_what_was_spent(run):
    assert [row.iteration for row in run.history] == [0, 100, 200, 300, 310]
    for row in run.history:
        assert row.forwards == 3 * NFE * BATCH * row.iteration
        assert np.isfinite(row.val_metric)
        assert np.isnan(row.train_loss) == (row.iteration == 0)
    assert run.forwards == 3 * NFE * BATCH * 310
    assert np.all(np.diff([row.seconds for row in run.history]) >= 0)
    best = max(run.history, key=lambda row: row.val_metric)
    assert (run.iteration, run.val_metric) == (best.iteration, best.val_metric)


@pytest.fixture(scope="module")
def short(problem):
    return fit(problem)


def test_the_seed_decides_the_run(problem, short):
    assert_same_run(fit(problem), short)
    other = fit(problem, seed=1)
    assert any(np.any(a != b) for a, b in zip(other.params, short.params, strict=True))


def turning(step):
    """Small steps down, then large ones up."""
    return jnp.where(step < 20, -2e-3, 0.1)


DIVERGING = distill.with_optax(
    optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(turning))
)


def test_the_best_iteration_is_kept_when_training_diverges(problem):
    result = fit(problem, optimizer=DIVERGING, iterations=40, evaluate_every=10)
    values = [row.val_metric for row in result.history]
    assert values[0] < values[1] < values[2]
    assert values[-1] < values[0]
    assert (result.iteration, result.val_metric) == (20, values[2])
    field, _, validation = problem
    reached = np.mean(distill.evaluate(result.params, field, validation))
    np.testing.assert_allclose(reached, values[2], rtol=1e-12)


def test_a_sample_that_is_hit_exactly_does_not_hide_the_others(problem):
    field, train, validation = problem
    x0, x1 = (leaf.copy() for leaf in validation[:2])
    x0[3] = x1[3] = 0.0

    def still(t, x, label):
        return jnp.where(x == 0, 0.0, field(t, x, label))

    validation = validation._replace(x0=x0, x1=x1)
    result = fit((still, train, validation))
    reached = distill.evaluate(result.params, still, validation)
    assert result.iteration > 0
    np.testing.assert_array_equal(np.isposinf(reached), np.arange(40) == 3)
    others = np.delete(reached, 3)
    expected = (np.sum(others) + np.max(others)) / 40
    np.testing.assert_allclose(result.val_metric, expected, rtol=1e-12)


def test_weights_count_by_their_ratio(problem, short):
    tiny = fit(problem, weights=np.full(64, 1e-60))
    assert_same_run(tiny, short)


def test_a_solver_of_integers_is_a_start(problem):
    euler = NSParams(*(np.asarray(leaf, int) for leaf in ([0], [1], [[1]])))
    assert fit(problem, euler).val_metric > -np.inf


BACKTRACKING = optax.chain(
    optax.sgd(1.0),
    optax.scale_by_backtracking_linesearch(
        max_backtracking_steps=30, decrease_factor=0.3
    ),
)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("tx", "gain"),
    [
        pytest.param(BACKTRACKING, 5, id="backtracking"),
        pytest.param(optax.lbfgs(), 10, id="lbfgs", marks=pytest.mark.exhaustive),
    ],
)
def test_a_line_search_asks_for_the_loss(problem, tx, gain):
    run = fit(problem, optimizer=distill.with_optax(tx), batch=64)
    assert run.val_metric > run.history[0].val_metric + gain


def test_a_run_that_only_gets_worse_returns_its_start(problem):
    result = fit(problem, optimizer=UPHILL)
    assert result.iteration == 0
    for got, start in zip(result.params, solvers.midpoint(NFE), strict=True):
        np.testing.assert_array_equal(got, start)


def test_eight_devices_give_the_run_of_one(problem, short):
    laid = fit(problem, mesh=parallel.data_mesh())
    for got, expected in zip(laid.params, short.params, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    for got, expected in zip(laid.history[1:], short.history[1:], strict=True):
        np.testing.assert_allclose(got[1:4], expected[1:4], rtol=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "devices"),
    [
        (distill.adam(5e-3), 8),
        pytest.param(distill.gauss_newton(), 1, marks=pytest.mark.exhaustive),
    ],
)
def test_a_step_is_traced_once(problem, optimizer, devices):
    field, *_ = problem
    traced, before_steps = [], []

    def counted(*inputs):
        traced.append(inputs)
        return field(*inputs)

    def stop():
        before_steps.append(len(traced))
        return False

    mesh = parallel.data_mesh() if devices > 1 else None
    settings = {"optimizer": optimizer, "iterations": 6, "mesh": mesh}
    fit(problem, vf=counted, stop=stop, **settings)
    assert before_steps == 6 * [len(traced)]


# --- weights, microbatches, patience -------------------------------------------------


def test_a_weight_of_three_is_the_pair_three_times(problem):
    field, train, validation = problem
    triple = np.arange(64) % 4 == 0
    times = np.where(triple, 3, 1)
    rows = np.repeat(np.arange(64), times)
    x0, x1, (label,) = jax.tree.map(
        lambda leaf: leaf[rows], (train.x0, train.x1, train.args)
    )
    repeated = Pairs.of(x0, x1, (label,))
    settings = {"iterations": 4, "evaluate_every": 4, "objective": distill.mse_loss}
    settings["optimizer"] = distill.with_optax(optax.sgd(1e-2))
    weighted = fit(problem, batch=64, weights=times, **settings)
    longer = fit((field, repeated, validation), batch=len(rows), **settings)
    plain = fit(problem, batch=64, **settings)
    assert weighted.iteration == longer.iteration == 4
    for got, expected in zip(weighted.params, longer.params, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
    assert np.max(np.abs(weighted.params.b - plain.params.b)) > 1e-5
    got, expected = weighted.history[1].train_loss, longer.history[1].train_loss
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def worsening(problem, **kwargs):
    return fit(
        problem,
        optimizer=UPHILL,
        iterations=20,
        evaluate_every=2,
        **kwargs,
    )


def test_patience_ends_a_run_that_gains_nothing(problem, tmp_path):
    result = worsening(problem, patience=3, checkpoint=tmp_path)
    assert [row.iteration for row in result.history] == [0, 2, 4, 6]
    assert result.iteration == 0

    def unreachable(done, total, note=""):
        raise AssertionError

    again = worsening(problem, patience=3, checkpoint=tmp_path, progress=unreachable)
    assert_same_run(again, result)


def test_patience_counts_from_the_last_gain(problem):
    # Gains up to iteration 20, losses after it.
    settings = {"optimizer": DIVERGING, "iterations": 40, "evaluate_every": 5}
    result = fit(problem, **settings, patience=2)
    assert [row.iteration for row in result.history] == [*range(0, 31, 5)]
    assert result.iteration == 20


@pytest.mark.parametrize(
    ("values", "stale"),
    [
        ([10.0, 20.0, 20.4, 20.4], True),
        ([10.0, 20.0, 20.4, 20.7], False),  # Small gains add up.
        ([1.0, 2.0, 2.04, 2.07], False),  # Whatever the unit.
        ([10.0, 20.0, 19.0, 20.6], False),
        ([10.0, 9.0, 10.01], False),
        ([10.0, 9.0, 9.5], True),
    ],
)
def test_a_gain_counts_from_a_share_of_all_gains(values, stale):
    history = [
        distill.HistoryRow(i, 0, 0.0, value, 0.0) for i, value in enumerate(values)
    ]
    assert is_stale(history, patience=2) == stale
    assert not is_stale(history, patience=None)


def test_pairs_to_validate_on_that_were_trained_on_are_counted(problem):
    field, train, validation = problem
    x0, label = validation.x0.copy(), validation.args[0].copy()
    x0[:3], label[:3] = train.x0[[5, 9, 60]], train.args[0][[5, 9, 60]]
    # The same noise with another condition is another pair.
    x0[3], label[3] = train.x0[20], 1 - train.args[0][20]
    mixed = validation._replace(x0=x0, args=(label,))
    with pytest.warns(UserWarning, match="3 of the 40 validation pairs start from"):
        fit((field, train, mixed), iterations=1)


# --- checkpoints ---------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def saved(problem, short, tmp_path_factory):
    """A finished run that was killed at iterations 0, 5 and 10, and its directory."""
    directory = tmp_path_factory.mktemp("run")

    def killer(iteration):
        def progress(done, total, note=""):
            if done == iteration:
                raise Killed

        return progress

    for iteration in (0, 5, 10):
        with pytest.raises(Killed):
            fit(problem, checkpoint=directory, progress=killer(iteration))
    return fit(problem, checkpoint=directory), directory


def test_a_killed_run_continues_bit_for_bit(saved, short):
    assert_same_run(saved[0], short)


def test_a_finished_run_trains_no_more(saved, problem):
    def unreachable(done, total, note=""):
        raise AssertionError

    again = fit(problem, checkpoint=saved[1], progress=unreachable)
    assert_same_run(again, saved[0])
    assert again.history == saved[0].history or np.isnan(again.history[0].train_loss)


def other_runs(problem):
    field, train, validation = problem
    moved = train._replace(x1=train.x1 + 0.1)
    validation = validation._replace(x1=validation.x1 + 0.1)
    return {
        "seed": {"seed": 3},
        "batch": {"batch": 8},
        "iterations": {"iterations": 13},
        "evaluate_every": {"evaluate_every": 4},
        "optimizer": {"optimizer": distill.adam(1e-3)},
        "start": {"start": solvers.euler(NFE)},
        "nfe (and start)": {"start": solvers.midpoint(2)},
        "optimizer (another state)": {"optimizer": distill.with_optax(optax.sgd(0.1))},
        "field_weights": {"vf": jax.tree.map(lambda leaf: leaf + 1, field)},
        "train": {"train": moved},
        "validation": {"validation": validation},
        "metric": {"metric": metrics.mean_squared_error},
        "loss": {"objective": lambda x, target: jnp.mean((x - target) ** 2, axis=1)},
    }


@pytest.mark.exhaustive
def test_partial_losses_are_told_apart_by_their_arguments(problem, tmp_path):
    def loss(x, target, scale):
        return scale * distill.mse_loss(x, target)

    def run(scale):
        fit(
            problem, objective=functools.partial(loss, scale=scale), checkpoint=tmp_path
        )

    run(1.0)
    run(1.0)
    with pytest.raises(ValueError, match=r"loss: there .*1\.0.*, here .*2\.0"):
        run(2.0)


@pytest.mark.exhaustive
def test_a_loss_of_the_path_tells_paths_apart(tmp_path):
    field, train, validation = problems.wavy_problem()
    other = train._replace(times=train.times[::2], path=train.path[::2])

    def run(train):
        distill.fit(
            families.bst("euler", 1),
            field,
            train,
            validation,
            optimizer=distill.adam(5e-3).replace(iterations=2),
            objective=distill.bespoke_loss("euler"),
            checkpoint=tmp_path,
        )

    run(train)
    with pytest.raises(ValueError, match="another run; train: there"):
        run(other)


@pytest.mark.parametrize("name", other_runs(problems.shifted_problem()))
def test_the_checkpoint_of_another_run_is_refused_by_name(saved, problem, name):
    changes = other_runs(problem)[name]
    with pytest.raises(ValueError, match="is of another run; ") as caught:
        fit(problem, checkpoint=saved[1], **changes)
    reason = str(caught.value).partition("; ")[2]
    assert reason.startswith(f"{name.partition(' ')[0]}: there ")
    assert reason.count("; ") == name.count("and")


def test_settings_of_optax_are_told_apart_by_the_name_given(problem, tmp_path):
    def run(name, rate):
        optimizer = distill.with_optax(optax.sgd(rate), name)
        return fit(problem, optimizer=optimizer, iterations=1, checkpoint=tmp_path)

    run("sgd(0.1)", 0.1)
    with pytest.raises(ValueError, match=r"there 'sgd\(0.1\)', here 'sgd\(0.2\)'"):
        run("sgd(0.2)", 0.2)


# --- bad input -----------------------------------------------------------------------


def test_microbatches_are_strided_and_give_the_rows_in_order(rng):
    batch = distill.Batch(rng.normal(size=(12, 3)), np.zeros((12, 3)), (), np.ones(12))
    of_end = distill.Objective(distill.pairwise(distill.mse_loss))
    rows = {"x": jnp.asarray(batch.x0), "label": jnp.arange(12)}

    def center(rows):
        return rows["x"] - jnp.mean(rows["x"], axis=0, keepdims=True), rows["label"]

    for size, parts in ((4, 3), (12, 1), (None, 1)):
        goal = distill.Goal(None, None, batch, of_end, size)
        got, label = goal.map(center, rows)
        np.testing.assert_array_equal(label, np.arange(12))
        for start in range(parts):
            of_part = batch.x0[start::parts]
            np.testing.assert_allclose(
                got[start::parts], of_part - np.mean(of_part, 0), atol=1e-14
            )


@pytest.mark.parametrize(
    ("broken", "where"),
    [(0.25, r"the field is not finite at t = 0\.5;"), (2.0, "the loss is not finite")],
)
def test_what_is_never_finite_is_said_with_its_time(problem, broken, where):
    def field(t, x, label):
        return jnp.where(t > broken, jnp.nan, -x)

    batch = of_rows(problem[1], np.arange(4))
    message = f"no step from iteration 11 to 20 was finite: {where}"
    with pytest.raises(ValueError, match=message):
        report_not_finite(solvers.euler(4), 20, as_pytree(field), batch, 10)


def test_a_family_that_leaves_the_solvers_is_told_when(problem):
    start = solvers.midpoint(2)

    def to_params(theta):
        # The times of the start alone are in order.
        late = jnp.where(theta["w"] == 1.0, start.times[-1], -1.0)
        times = jnp.stack([jnp.zeros(()), late])
        return start._replace(times=times, a=theta["w"] * start.a)

    family = families.Family({"w": jnp.ones(())}, to_params)
    with pytest.raises(ValueError, match="times") as caught:
        fit(problem, family=family, optimizer=UPHILL, iterations=1)
    assert caught.value.__notes__ == ["The family gives this after 1 steps."]


def bad_inputs():
    _, train, _ = problems.shifted_problem()
    family = families.bns(solvers.midpoint(NFE))
    holed = train.x1.copy()
    holed[7, 1] = np.nan
    upper = solvers.midpoint(NFE)._replace(b=np.ones((NFE, NFE)))
    empty = problems.shifted_pairs(np.zeros((2, 3)), 0)
    few = problems.shifted_pairs(np.zeros((2, 3)), 5)
    return {
        "equal length": {"train": train._replace(x1=train.x1[:-1])},
        r"equal length, .*args\[0\]": {"train": train._replace(args=(np.zeros(3),))},
        "batch is larger than the data: .* 64 .* got 65": {"batch": 65},
        "patience must be at least 1, got 0": {"patience": 0},
        "x1 must be finite, sample 7": {"train": train._replace(x1=holed)},
        "x0 must be finite, sample 7": {"validation": train._replace(x0=holed)},
        "at least one sample": {"validation": empty},
        "b must be finite": {
            "family": family._replace(theta=family.theta._replace(b=family.theta.b / 0))
        },
        "lower triangular": {
            "family": family._replace(to_params=lambda theta: upper),
        },
        r"the objective must return .* \(16,\), got float64 of shape \(\)": {
            "objective": lambda x, target: jnp.mean((x - target) ** 2)
        },
        r"the metric must return .* \(16,\), got .* \(16, 3\)": {
            "metric": lambda x, target: (x - target) ** 2
        },
        "velocity field must return the shape of x": {
            "vf": lambda t, x, label: x[:, :1]
        },
        "velocity field must return the tree of x": {"vf": lambda t, x, label: (x, x)},
        "batch must be at least 1, got 0": {"batch": 0},
        "iterations must be at least 1, got 0": {"iterations": 0},
        "evaluate_every must be at least 1, got 0": {"evaluate_every": 0},
        "multiple of 8, got 4; the nearest size is 8": {
            "microbatch": 4,
            "mesh": parallel.data_mesh(),
        },
        r"expected shape \(64,\), got float64 of shape \(16,\)": {
            "weights": np.ones(16)
        },
        "weights must be positive and finite": {"weights": np.arange(64.0)},
        "microbatch must divide the batch of 16, got 5": {"microbatch": 5},
        "microbatch must be at least 1, got 0": {"microbatch": 0},
        r"the metric must return one number .* an array \(16,\), got float": {
            "metric": lambda x, target: 1.0
        },
        "17 parameters cannot be fitted to 15 residuals": {
            "train": few,
            "batch": None,
        },
        "expected a function, got int": {"vf": 3},
        "the start is nan on validation pair 0": {
            "vf": lambda t, x, label: jnp.full_like(x, jnp.nan)
        },
    }


@pytest.mark.parametrize("function", [distill.fit, distill.identify])
@pytest.mark.parametrize("dtype", ["int64", "complex128", "bool"])
def test_theta_of_no_floating_point_numbers_is_named_first(problem, function, dtype):
    def unreachable(theta):
        raise AssertionError("theta must be refused before anything is computed")

    family = families.Family({"w": np.ones(2, dtype)}, unreachable)
    with pytest.raises(ValueError, match=rf"got {dtype} at theta\['w'\]"):
        function(family, *problem)


@pytest.mark.parametrize("message", bad_inputs())
def test_bad_input_is_named_before_anything_is_done(problem, tmp_path, message):
    def unreachable(done, total, note=""):
        raise AssertionError("bad input must be refused before the first validation")

    kwargs = bad_inputs()[message] | {"progress": unreachable}
    with pytest.raises(ValueError, match=message):
        fit(problem, checkpoint=tmp_path / "run", **kwargs)
    assert not (tmp_path / "run").exists()


def no_number(x, target):
    return jnp.full(x.shape[0], jnp.nan)


def test_ten_losses_in_a_row_that_are_not_finite_stop_the_run(problem, tmp_path):
    with pytest.raises(ValueError, match="no step from iteration 1 to 10 was finite"):
        fit(problem, objective=no_number, checkpoint=tmp_path)
    # What is saved is the start, which such steps leave as it is.
    start = families.bns(solvers.midpoint(NFE)).theta
    state = initial_state(
        families.bns(solvers.midpoint(NFE)), distill.adam(5e-3).trainer(12), 0
    )
    found = checkpoint.restore(tmp_path, state)
    assert (found.step, int(found.state.rejected)) == (10, 10)
    for got, expected in zip(found.state.theta, start, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("iterations", [4, 12])
def test_a_run_that_failed_fails_again(problem, tmp_path, iterations):
    settings = {"objective": no_number, "iterations": iterations}
    said = set()
    for _ in range(2):
        with pytest.raises(ValueError, match="was finite") as caught:
            fit(problem, **settings, checkpoint=tmp_path)
        said.add(str(caught.value))
    assert len(said) == 1


def test_a_loss_that_is_finite_now_and_then_lets_the_run_go_on(problem):
    _, train, _ = problem

    def loss(x, target):
        # Not finite wherever the batch holds the first pair.
        bad = jnp.any(jnp.all(target == train.x1[:1], axis=1))
        return jnp.where(bad, jnp.nan, distill.psnr_loss(x, target))

    done = fit(problem, objective=loss, iterations=24)
    assert done.val_metric > done.history[0].val_metric


@pytest.mark.parametrize("iteration", first_of([3, 5], 3))
def test_a_run_that_is_asked_to_stop_continues_bit_for_bit(
    problem, short, tmp_path, iteration
):
    asked = iter(range(100))
    with pytest.raises(distill.Interrupted, match=f"before iteration {iteration + 1}"):
        fit(problem, checkpoint=tmp_path, stop=lambda: next(asked) == iteration)
    again = fit(problem, checkpoint=tmp_path, stop=lambda: False)
    assert_same_run(again, short)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "optimizer",
    [
        distill.adam(5e-3),
        pytest.param(distill.gauss_newton(), marks=pytest.mark.exhaustive),
    ],
)
def test_a_batch_that_the_devices_do_not_divide_gives_the_run_of_one(
    problem, optimizer
):
    settings = {"batch": 21, "iterations": 6, "optimizer": optimizer}
    one = fit(problem, **settings)
    laid = fit(problem, **settings, mesh=parallel.data_mesh())
    assert laid.forwards == one.forwards
    for got, expected in zip(laid.params, one.params, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)
    for got, expected in zip(laid.history[1:], one.history[1:], strict=True):
        np.testing.assert_allclose(got[1:4], expected[1:4], rtol=1e-9)


@pytest.mark.exhaustive
@pytest.mark.parametrize("devices", first_of([(1, 8), (8, 1)], (8, 1)))
def test_a_run_continues_on_other_devices(problem, short, tmp_path, devices):
    begins, goes_on = (parallel.data_mesh(jax.devices()[:count]) for count in devices)
    asked = itertools.count()
    with pytest.raises(distill.Interrupted):
        fit(problem, mesh=begins, checkpoint=tmp_path, stop=lambda: next(asked) == 6)
    again = fit(problem, mesh=goes_on, checkpoint=tmp_path)
    for got, expected in zip(again.params, short.params, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.exhaustive
def test_a_run_that_dies_at_a_validation_gives_its_row_again(problem, tmp_path):
    """A callback that keeps rows of its own misses none."""
    rows = []

    def stop_at_five(done, total, text):
        if done == 5:
            raise distill.Interrupted

    def keep(row, params):
        rows.append(row.iteration)

    with pytest.raises(distill.Interrupted):
        fit(problem, checkpoint=tmp_path, validated=keep, progress=stop_at_five)
    fit(problem, checkpoint=tmp_path, validated=keep)
    assert rows == [0, 5, 10, 12]

    def die_at_ten(row, params):
        if row.iteration == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(problem, checkpoint=tmp_path / "b", validated=die_at_ten)
    rows.clear()
    fit(problem, checkpoint=tmp_path / "b", validated=keep)
    assert rows == [10, 12]


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", first_of([np.int64, np.int32, np.uint8], np.int32))
def test_counts_of_numpy_are_counts(problem, tmp_path, kind):
    settings = {"iterations": 2, "evaluate_every": 1, "batch": 16, "seed": 1}
    ours = fit(problem, checkpoint=tmp_path / "a", **settings)
    theirs = {name: kind(value) for name, value in settings.items()}
    got = fit(problem, checkpoint=tmp_path / "b", **theirs)
    assert got.identity == ours.identity
    assert fit(problem, checkpoint=tmp_path / "b", **settings).identity == got.identity


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("optimizer", [distill.adam(1e-3), distill.gauss_newton()])
def test_a_start_of_16_bits_is_searched_in_float32(problem, dtype, optimizer):
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), solvers.euler(2))
    found = fit(problem, start=start, optimizer=optimizer, iterations=2)
    assert found.params.a.dtype == np.float32
