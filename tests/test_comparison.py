"""Laws of comparing solvers, and of finding them, on one's own field and pairs."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bns_jax
from bns_jax import (
    checkpoint,
    comparison,
    distill,
    identity,
    metrics,
    schedulers,
    solvers,
    velocity,
)
from bns_jax.pairs import Pairs, first, split
from bns_jax.results_store import Result, ResultsStore

from . import problems
from .fields import Gaussian


@pytest.fixture(scope="module")
def problem():
    return problems.wavy_problem()


@pytest.fixture(scope="module")
def compared(problem):
    vf, _, data = problem
    return bns_jax.compare(vf, data, [2, 4], also={"mine": solvers.ralston(4)})


def test_every_generic_solver_is_measured_as_evaluate_does(problem, compared):
    vf, _, data = problem
    generic = {n for n, e in solvers.CATALOGUE.items() if e.kind == "generic"}
    assert {row.solver for row in compared.results} - {"mine"} <= generic
    found = {(row.solver, row.nfe): row for row in compared.results}
    makers = {
        "euler": solvers.euler,
        "midpoint": solvers.midpoint,
        "ab2": lambda nfe: solvers.adams_bashforth(nfe, 2),
    }
    for name, make in makers.items():
        for nfe in (2, 4):
            values = distill.evaluate(make(nfe), vf, data)
            row = found[name, nfe]
            np.testing.assert_allclose(row.mean, np.mean(values), rtol=1e-9)
            assert row.low < row.mean < row.high
    assert found["mine", 4].mean == found["ralston", 4].mean


def test_it_prints_as_a_table_whose_last_line_is_the_best(compared):
    *_, last = str(compared).splitlines()
    best = compared.best(4)
    assert last.split()[0] in {best.solver, "mine"}
    assert f"{best.mean:.2f}" in last
    assert str(compared).startswith("psnr (data_range=2) on 40 pairs")
    with pytest.raises(ValueError, match="nothing was compared at 3"):
        compared.best(3)


def test_a_model_knows_its_path_and_is_asked_with_all_solvers(rng):
    scheduler = schedulers.vp()
    vf = velocity.from_epsilon(Gaussian(scheduler).epsilon, scheduler)
    x0 = rng.normal(size=(8, 3))
    data = Pairs.of(x0, Gaussian(scheduler).flow(0.0, 1.0, x0))
    named = ["ddim", "dpm_solver_pp_2m@log_snr", "euler"]
    with_path = bns_jax.compare(vf, data, 4, names=named)
    assert [row.solver for row in with_path.results] == named
    plain = jax.tree_util.Partial(lambda t, x: vf(t, x))
    without = bns_jax.compare(plain, data, 4, names=named)
    assert [row.solver for row in without.results] == ["euler"]
    said = bns_jax.compare(plain, data, 4, names=named, scheduler=scheduler)
    for got, expected in zip(said.results, with_path.results, strict=True):
        np.testing.assert_allclose(got[2:], expected[2:], rtol=1e-9)


def test_results_are_kept_and_never_those_of_something_else(
    problem, tmp_path, monkeypatch
):
    vf, _, data = problem
    compare = functools.partial(
        bns_jax.compare, names=["euler", "midpoint"], directory=tmp_path
    )
    once = compare(vf, data, 2)
    own = compare(vf, data, 2, also={"own": solvers.euler(2)})
    calls = []
    measure = comparison.measure
    monkeypatch.setattr(
        comparison, "measure", lambda *args: calls.append(1) or measure(*args)
    )
    assert compare(vf, data, 2) == once
    single = solvers.euler(2)._replace(a=np.ones(2, np.float32))
    assert compare(vf, data, 2, also={"own": single}) == own
    assert not calls
    other = compare(vf, data, 2, also={"own": solvers.midpoint(2)})
    assert len(calls) == 1
    assert other.results[-1].mean == once.results[1].mean
    for changes in (
        {"vf": lambda t, x: vf(t, x) + 0.02 * x},
        {"data": data._replace(x1=data.x1 + 1)},
        {"metric": metrics.snr},
    ):
        asked = {"vf": vf, "data": data, "nfe": 2} | changes
        with pytest.raises(ValueError, match="holds results of something else; "):
            compare(**asked)
    path = tmp_path / "nfe_2.json"
    record = json.loads(path.read_text())
    record["results"]["midpoint"][1] = "99.0"
    for damaged in (json.dumps(record), json.dumps(record)[:-9], "[1]", "{}"):
        path.write_text(damaged)
        assert compare(vf, data, 2) == once


def test_a_solver_that_blows_up_comes_last(problem):
    vf, _, data = problem
    wild = solvers.euler(2)._replace(b=np.array([[0.5, 0.0], [1e200, 1e200]]))
    found = bns_jax.compare(vf, data, 2, names=["euler"], also={"wild": wild})
    assert found.best(2).solver == "euler"
    assert np.isnan(found.results[1].low)
    assert "nan or -inf: " in str(found)


def test_samples_that_are_not_finite_are_explained(problem):
    """Heun's last evaluation is at t = 1, Euler's before."""

    def vf(t, x, *args):
        return jnp.where(t < 1.0, x, jnp.nan)

    compared = str(bns_jax.compare(vf, problem[2], 2, names=["euler", "heun"]))
    assert re.search(r"heun +nan\n", compared)
    finite = bns_jax.compare(problem[0], problem[2], 2, names=["euler"])
    assert "inf" not in str(finite)
    assert compared.endswith("velocity at t = 1 where the path has none")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["eular"]}, "no solver is called 'eular'"),
        ({"nfe": 2.5}, "nfe must be a whole number"),
        ({"nfe": [2, 0]}, "nfe must be at least 1"),
        ({"nfe": []}, "at least one number of evaluations, got none"),
        ({"nfe": 3, "names": ["rk4"]}, r"no solver of \['rk4'\] exists at \[3\]"),
        ({"also": {"bad": solvers.euler(2)._replace(a=np.ones(3))}}, "expected times"),
        (
            {"also": {"own": {8: solvers.euler(8)}}},
            r"none of the \[2\] NFE .* at \[8\]",
        ),
        ({"also": {"own": solvers.euler(8)}}, r"none of the \[2\] NFE .* at \[8\]"),
        ({"also": {"own": {}}}, r"none of the \[2\] NFE .* at \[\]"),
    ],
)
def test_what_cannot_be_compared_is_named(problem, changes, message):
    vf, _, data = problem
    with pytest.raises(ValueError, match=message):
        bns_jax.compare(**{"vf": vf, "data": data, "nfe": 2} | changes)


def newton(iterations, batch=None):
    """With so many steps of so many pairs; all of them if left out."""
    own = {} if batch is None else {"batch": batch}
    return distill.gauss_newton().replace(iterations=iterations, **own)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("found")


@pytest.fixture(scope="module")
def found(problem, folder):
    vf, train, validation = problem
    settings = {"optimizer": newton(4, 32), "checkpoint": folder}
    return bns_jax.find(vf, train, validation, [2, 1], **settings)


def test_each_search_has_a_checkpoint_of_its_own(found, folder):
    assert sorted(path.name for path in folder.iterdir()) == ["bns_1", "bns_2"]
    for nfe, fitted in found.items():
        metadata = checkpoint.newest_metadata(folder / f"bns_{nfe}")
        assert identity.differences(metadata["identity"], fitted.identity) == []


def test_found_solvers_beat_the_known_ones_and_say_so(problem, found):
    assert list(found) == [1, 2]
    for nfe, fitted in found.items():
        assert fitted.val_metric > found.known.best(nfe).mean
        assert len(found.params[nfe].a) == nfe
        seen = first(problem[1], problem[2].size)
        reached = distill.evaluate(fitted.params, problem[0], seen)
        np.testing.assert_allclose(fitted.train_metric, np.mean(reached), rtol=1e-9)
    text = str(found)
    gain = found[2].val_metric - found.known.best(2).mean
    assert f"{gain:+.2f}" in text
    assert found.known.best(1).solver in text
    assert f"{found[1].val_metric:.2f}" in str(found[1])


@pytest.mark.exhaustive
def test_pairs_without_a_path_are_searched_as_well(problem):
    vf, train, validation = problem
    bare = [Pairs.of(data.x0, data.x1) for data in (train, validation)]
    # As many evaluations and steps as above, whose programs are compiled.
    found = bns_jax.find(vf, *bare, [1, 2], optimizer=newton(4, 32))
    assert all(fit.val_metric > found.known.best(n).mean for n, fit in found.items())


def test_what_cannot_be_searched_is_refused_before_anything_is_measured(problem):
    def vf(t, x):
        raise AssertionError("called")

    _, train, validation = problem
    other = Pairs.of(np.ones((5, 2)), np.ones((5, 2)))
    for given, nfe, message in (
        ((train, validation), [2, 40], r"899 parameters cannot be fitted to \d+ resid"),
        ((train, other), 2, r"of the same samples: expected .*, got \(\(2,\), \(\)\)"),
        ((other._asdict(), validation), 2, "expected Pairs, .* got dict"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            bns_jax.find(vf, *given, nfe)


def test_what_another_program_has_measured_meanwhile_is_kept(tmp_path):
    one, other = (ResultsStore(tmp_path, {"field": "f"}) for _ in range(2))
    euler, midpoint = solvers.euler(2), solvers.midpoint(2)
    for store in (one, other):
        assert store.find("euler", 2, euler) is None
    first_found = Result("euler", 2, 1.0, 0.5, 1.5)
    one.add(first_found, euler)
    other.add(Result("midpoint", 2, 2.0, 1.5, 2.5), midpoint)
    assert ResultsStore(tmp_path, {"field": "f"}).find("euler", 2, euler) == first_found


@pytest.mark.exhaustive
def test_few_pairs_are_said_to_be_few(problem):
    vf, train, validation = problem
    few, _ = split(train, 8, 8)
    fitted = bns_jax.find(vf, few, validation, 4, optimizer=newton(8))[4]
    assert fitted.overfit > 1
    assert "more" in fitted.advice
    assert fitted.advice in str(fitted)
