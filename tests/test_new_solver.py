"""The page "A new solver" of CONTRIBUTING.md, followed to the letter."""

import re
import sys
import types

import numpy as np
import pytest

from bns_jax import schedulers, solvers
from tests import laws, test_public, test_solvers
from tests.fields import Linear, Logistic

NAME = "two_stage"


@pytest.fixture(scope="module")
def page():
    text = (test_public.ROOT / "CONTRIBUTING.md").read_text()
    return re.search(r"## A new solver\n.*?(?=\n## )", text, re.DOTALL)[0]


@pytest.fixture(scope="module")
def code(page):
    return re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]


@pytest.fixture
def method(page, code, monkeypatch):
    """The class of the page, with its one line in the catalogue."""
    module = types.ModuleType("new_solver")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, module.__dict__)
    entry = re.search(r'`"(\w+)": (\w+\(\)),`', page)
    assert entry[1] == NAME
    method = eval(entry[2], module.__dict__)
    monkeypatch.setitem(solvers.CATALOGUE, NAME, method)
    monkeypatch.setitem(laws.ALL_SOLVERS, NAME, laws.subject(NAME, method))
    return method


def test_the_page_and_its_class_are_short(page, code):
    assert len(page.splitlines()) <= 40
    assert len(code.splitlines()) <= 30


def test_it_meets_the_laws(method):
    for field in (Linear(), Logistic()):
        test_solvers.test_order_on_any_field(NAME, field)
    test_solvers.test_times_are_sorted_and_asked_where_the_grid_says(NAME, "vp")
    test_solvers.test_times_stay_sorted_in_floating_point(NAME)
    test_solvers.test_a_constant_field_is_integrated_exactly(NAME)
    test_solvers.test_polynomials_in_time_below_the_order_are_integrated_exactly(NAME)
    test_solvers.test_more_steps_bring_it_to_the_flow(NAME, "cond_ot")
    test_solvers.test_nfe_that_cannot_be_split_is_named(NAME)
    test_solvers.test_bad_grids_are_named(NAME, [0.0, 0.6, 0.4, 0.8, 1.0], "sorted")
    test_solvers.test_every_solver_has_a_line_of_description_and_a_reference(NAME)


def test_it_makes_as_many_calls_as_it_says(method):
    calls = []
    solver = solvers.algorithm(NAME, 8, None)
    solver(lambda t, x: calls.append(t) or x, np.ones(3))
    assert len(calls) == 8 == method.stages * method.steps(8)


@pytest.mark.parametrize(
    ("node", "same"), [(1 / 2, "midpoint"), (2 / 3, "ralston"), (1.0, "heun")]
)
def test_its_option_names_the_methods_people_know(method, node, same):
    path = schedulers.vp()
    got = solvers.build(NAME, 8, None, node=node)
    for leaf, expected in zip(got, solvers.build(same, 8, path), strict=True):
        laws.assert_close(leaf, expected, 1e-14)
    assert NAME in solvers.build_all(solvers.expand([NAME]), 8, None)
