"""Laws of objectives and metrics: what they are fed, and what a search asks of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bns_jax
from bns_jax import Problem, compare, distill, families, find, metrics, solvers
from bns_jax.distill.batch import of_rows, reads_path
from bns_jax.distill.objectives import as_batch_function, as_objective

from . import problems
from .laws import first_of

FIELD, TRAIN, VALIDATION = problems.shifted_problem()
ADAM = distill.adam(5e-3).replace(batch=16, iterations=4, evaluate_every=2)
FAMILY = families.bns(solvers.midpoint(2))


def fit(train=TRAIN, family=FAMILY, **settings):
    return distill.fit(
        family, FIELD, train, VALIDATION, **{"optimizer": ADAM} | settings
    )


def assert_same_params(got, expected):
    for a, b in zip(got.params, expected.params, strict=True):
        np.testing.assert_array_equal(a, b)


def squares(x_n, x1):
    return jnp.mean((x_n - x1) ** 2, axis=1)


def of_batch(x_n, batch):
    return jnp.mean((x_n - batch.x1) ** 2, axis=1)


class Module:
    def __call__(self, x_n, batch):
        return of_batch(x_n, batch)

    def pair(self, x_n, target):
        return squares(x_n, target)


SEES_BATCH = {
    "function": of_batch,
    "module": Module(),
    "partial": functools.partial(lambda x_n, batch, p: of_batch(x_n, batch), p=2),
    "jitted": jax.jit(of_batch),
}
SEES_PAIRS = {
    "function": squares,
    "method": Module().pair,
    "partial": functools.partial(lambda x, y, p: squares(x, y), p=2),
    "jitted": jax.jit(squares),
    "starred": lambda *pair: squares(*pair),
}


@pytest.mark.parametrize("function", [*SEES_BATCH.values(), *SEES_PAIRS.values()])
def test_the_second_parameter_says_what_a_function_is_fed(function):
    batch = of_rows(TRAIN, np.arange(5))
    got = as_batch_function(function)(batch.x0, batch)
    expected = np.mean((TRAIN.x0[:5] - TRAIN.x1[:5]) ** 2, axis=1)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("function", "message"), [(3, r"function of \(x_n, x1\)"), (zip, "pairwise")]
)
def test_what_does_not_say_is_refused_with_advice(function, message):
    with pytest.raises(TypeError, match=message):
        fit(objective=function)
    with pytest.raises(TypeError, match=message):
        fit(metric=function)


@pytest.mark.exhaustive
def test_either_form_gives_the_same_search():
    expected = fit(objective=squares)
    assert_same_params(fit(objective=of_batch), expected)
    assert_same_params(fit(objective=distill.pairwise(squares)), expected)
    rolled = distill.Objective(as_batch_function(squares))
    assert_same_params(fit(objective=rolled), expected)


GAUSS_NEWTON = distill.gauss_newton().replace(batch=16)


@pytest.mark.exhaustive
@pytest.mark.parametrize("optimizer", first_of([ADAM, GAUSS_NEWTON], GAUSS_NEWTON))
def test_a_mask_in_the_conditioning_is_a_loss(optimizer):
    """Half of the entries count: that is the search among these alone."""

    def masked(x_n, batch):
        (label,) = batch.args
        kept = jnp.arange(3)[None] != label[:, None]
        return jnp.sum(jnp.where(kept, (x_n - batch.x1) ** 2, 0.0), axis=1)

    found = fit(objective=masked, optimizer=optimizer.replace(iterations=4))
    assert found.history[-1].train_loss < found.history[1].train_loss * 2
    x_n = TRAIN.x0[:4]
    batch = of_rows(TRAIN, np.arange(4))
    squared = (x_n - TRAIN.x1[:4]) ** 2
    label = TRAIN.args[0][:4]
    by_hand = [np.delete(squared[i], label[i]).sum() for i in range(4)]
    np.testing.assert_allclose(masked(x_n, batch), by_hand, rtol=1e-12)


def test_a_metric_sees_the_noise_and_the_condition():
    def metric(x_n, batch):
        label = batch.args[0].astype(x_n.dtype)
        return -jnp.mean((x_n - batch.x1) ** 2, axis=1) - label

    got = distill.evaluate(solvers.euler(2), FIELD, VALIDATION, metric)
    plain = distill.evaluate(solvers.euler(2), FIELD, VALIDATION, squares)
    np.testing.assert_allclose(got, -plain - VALIDATION.args[0], rtol=1e-12)
    table = compare(FIELD, VALIDATION, 2, names=["euler"], metric=metric)
    np.testing.assert_allclose(table.results[0].mean, np.mean(got), rtol=1e-12)
    assert fit(metric=metric).val_metric < 0


def test_the_path_is_there_for_who_reads_it_alone():
    seen = []

    def middle(x_n, batch):
        seen.append(batch.trajectory)
        points = batch.path.points
        assert batch.path.times == tuple(TRAIN.times)
        return jnp.mean((x_n - points[:, -1]) ** 2, axis=1)

    def end(x_n, batch):
        seen.append(batch.trajectory)
        return of_batch(x_n, batch)

    assert_same_params(fit(objective=middle), fit(objective=squares))
    seen.clear()
    fit(objective=end)
    # The first look is with it, to see whether it is read; no step is.
    assert seen[-1] is None
    one = of_rows(TRAIN, np.arange(1))
    assert reads_path(lambda batch: middle(batch.x0, batch), one)
    assert not reads_path(lambda batch: end(batch.x0, batch), one)


def test_a_path_that_is_not_there_is_missed_before_any_work(tmp_path):
    def middle(x_n, batch):
        return jnp.mean((x_n - batch.path.points[:, 0]) ** 2, axis=1)

    bare = TRAIN._replace(times=TRAIN.times[:0], path=TRAIN.path[:0])
    bst, bespoke = families.bst("midpoint", 2), distill.bespoke_loss("midpoint")
    for family, objective in ((FAMILY, middle), (bst, bespoke)):
        with pytest.raises(ValueError, match="the pairs hold no points"):
            fit(bare, family, objective=objective, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match=r"families\.bst, got those of BNSTheta"):
        fit(objective=bespoke)
    with pytest.raises(ValueError, match="the pairs hold no points"):
        distill.evaluate(solvers.euler(2), FIELD, bare, middle)
    assert not (tmp_path / "run").exists()


OLD = {
    "loss": ("objective=", squares),
    "batch": (r"optimizer=.*replace\(batch=", 16),
    "iterations": (r"optimizer=.*replace\(iterations=", 16),
    "evaluate_every": (r"optimizer=.*replace\(evaluate_every=", 16),
    "patience": (r"optimizer=.*replace\(patience=", 16),
    "microbatch": (r"optimizer=.*replace\(microbatch=", 16),
    "mesh": (r"Problem\(field, mesh=mesh\)", None),
    "progress": ("report=", print),
    "callback": (r"Report\(validated=", print),
    "stop": (r"Report\(stop=", print),
    "weights": (r"_replace\(weights=", np.ones(64)),
}


@pytest.mark.parametrize("name", list(OLD))
def test_an_old_keyword_is_refused_with_its_new_place(name):
    place, value = OLD[name]
    with pytest.raises(TypeError, match=f"fit: {name}= is now .*{place}"):
        fit(**{name: value})


def test_settings_of_an_optimizer_are_checked():
    with pytest.raises(TypeError, match=r"no settings \['steps'\], only .*'batch'"):
        distill.adam().replace(steps=3)
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        distill.adam().replace(patience=0)
    assert distill.gauss_newton().replace(patience=None).patience is None
    assert distill.gauss_newton().batch_of(100) == 100
    assert distill.gauss_newton().replace(batch=260).batch_of(100) == 260


def test_a_problem_does_wherever_a_field_does():
    problem = Problem(FIELD, facts={"model": "shifted"})
    expected = fit()
    found = distill.fit(FAMILY, problem, TRAIN, VALIDATION, optimizer=ADAM)
    assert_same_params(found, expected)
    assert found.identity == expected.identity
    both = [
        find(given, TRAIN, VALIDATION, 2, optimizer=ADAM) for given in (FIELD, problem)
    ]
    assert_same_params(both[0][2], both[1][2])
    tables = [
        compare(given, VALIDATION, 2, names=["common"]) for given in (FIELD, problem)
    ]
    assert str(tables[0]) == str(tables[1])


def test_an_objective_is_taken_as_it_is():
    objective = distill.bespoke_loss("midpoint")
    assert as_objective(objective) is objective
    assert not objective.is_of_end
    assert as_objective(metrics.mean_squared_error).is_of_end


def test_what_is_looked_at_is_what_solvers_are_judged_by():
    """Of a latent model: the decoded samples, in their range."""

    def decode(x):
        return 3.0 * x[:, :1]

    problem = Problem(FIELD, decode=decode, data_range=5.0)
    assert problem.metric is Problem(FIELD, decode=decode, data_range=5.0).metric
    assert Problem(FIELD).metric is metrics.psnr
    fitted = distill.fit(FAMILY, problem, TRAIN, VALIDATION, optimizer=ADAM)
    x = bns_jax.sample(fitted.params, FIELD, VALIDATION.x0, *VALIDATION.args)
    squares = np.mean((3 * np.asarray(x - VALIDATION.x1)[:, :1]) ** 2, axis=1)
    expected = np.mean(10 * np.log10(25.0 / squares))
    assert fitted.val_metric == pytest.approx(expected, rel=1e-6)
    assert np.mean(
        distill.evaluate(fitted.params, problem, VALIDATION)
    ) == pytest.approx(expected, rel=1e-6)
    assert "decoded" in str(compare(problem, VALIDATION, 2, names=["euler"]))


def test_a_problem_remembers_its_guidance():
    def branch(t, x, *args):
        return -x

    problem = Problem.guided(branch, lambda t, x, *args: x, 0.5, name="two")
    x = np.ones((2, 3))
    np.testing.assert_allclose(problem.field(0.3, x), -2.0 * x)
    assert (problem.guidance, problem.network_calls) == (0.5, 2)
    assert Problem.guided(branch, branch, 0).network_calls == 1
    assert Problem.guided(branch, branch, np.ones(3)).guidance is None
    assert problem.purpose({"field": "f", "seed": 0}).guidance == 0.5
    assert problem.purpose({"field": "f", "seed": 0}).identity == {
        "model": "two",
        "field": "f",
    }
    with pytest.raises(ValueError, match=r"shape of x"):
        Problem.guided(branch, lambda t, x, *args: x[:, :1], 0.5).identity(x, ())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"draw": 3}, "draw must be a function"),
        ({"decode": 3}, "decode must be a function"),
        ({"data_range": 0}, "data_range must be positive"),
        ({"data": np.array([[np.nan]])}, "data .*finite|finite.*data"),
    ],
)
def test_what_a_problem_cannot_hold_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Problem(FIELD, **wrong)
    with pytest.raises(ValueError, match="how noise is drawn is not said"):
        Problem(FIELD).draw(3, np.random.default_rng(0))
